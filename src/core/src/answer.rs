//! What an answer means: whether anything has been computed, how it failed, the usage and the id it reports;
//! and the answers that a client gets when nothing is served.

pub mod error_event;
pub mod first_token;
pub mod model_name;
pub mod refusal;
pub mod response_id;
pub mod usage;
pub mod verdict;

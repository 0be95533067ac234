//! What an answer means: the usage it reports, and the answers that a client gets when nothing is served.

pub mod refusal;
pub mod usage;

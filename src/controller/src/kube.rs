//! The only code that talks to the API server: watches, writes, the lease of the leader.

pub mod keeper;
pub mod kinds;
pub mod lease;
pub mod watch;
pub mod writer;

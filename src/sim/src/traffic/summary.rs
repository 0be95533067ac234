//! The summaries of the reference's two tools, line for line, so that their outputs can be compared with
//! ours.

mod multi_round_qa;
mod serving;

pub use multi_round_qa::multi_round_qa;
pub use serving::serving;

#[cfg(test)]
pub(super) use serving::tests::record as tests_record;

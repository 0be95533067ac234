//! From the bytes of a request to what was asked: the model, the parts of the prompt, and the hashes of its blocks.

pub mod blocks;
pub mod body;
pub mod encoding;
mod fields;
pub mod json;
mod json_digest;
mod media;
pub mod parse_cache;
pub mod prompt;
mod structural;

//! From the bytes of a request to what was asked: the model, the parts of the prompt, and the hashes of its
//! blocks.

pub mod blocks;
pub mod body;
pub mod encoding;
mod fields;
pub mod json;
mod json_digest;
mod media;
mod opening;
pub mod parse_cache;
pub mod prompt;
pub mod rewrite;
mod structural;

use body::{Api, BodyError, Request};

/// Reads a request body.
///
/// # Errors
/// [`BodyError`] when it cannot be read. Anything else is for the pod to judge.
pub fn parse(api: Api, body: &[u8]) -> Result<Request<'_>, BodyError> {
    fields::read(api, body, None).map(|(request, _)| request)
}

#[cfg(test)]
mod tests;

//! Tells the data of images, sounds and films from text, without decoding it.

/// Longest JSON, in bytes, that counts as written whatever it is: a URL, a tool call, or data of no more
/// tokens than that.
const SHORT_JSON: usize = 4096;
/// Bytes in the middle of longer JSON that are looked at: text has a space, a quote or a comma among so many.
const PROBE: usize = 256;

/// Whether JSON is mostly base64, as the `data:` URL of an image is. The middle of the JSON decides.
pub(super) fn is_media(json: &[u8]) -> bool {
    json.len() > SHORT_JSON
        && json.get(json.len() / 2..).and_then(|half| half.get(..PROBE)).is_some_and(|middle| {
            // Some writers escape the slash.
            middle.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=-_\\".contains(b))
        })
}

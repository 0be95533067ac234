//! Finds the id of a response of the Responses API: the first `id` of its first event, or of the answer
//! itself.

use memchr::memmem;

/// The start of an id of a response; messages and calls within it have others.
const START: &[u8] = b"\"resp_";
/// Bytes of the answer that are looked through: the id stands near its start.
const LOOKED_AT: usize = 4096;
/// Longest id that is taken.
const LONGEST: usize = 128;

/// Looks for the id in an answer that comes in chunks.
#[derive(Clone, Debug, Default)]
pub struct ResponseIdReader {
    /// The answer as far as it has come.
    kept: Vec<u8>,
    done: bool,
}

impl ResponseIdReader {
    /// Whether later chunks change nothing.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next chunk; the id, once it is whole.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        if self.done {
            return None;
        }
        let room = LOOKED_AT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
        let id = self.find();
        self.done = id.is_some() || self.kept.len() >= LOOKED_AT;
        if self.done {
            self.kept = Vec::new();
        }
        id
    }

    fn find(&self) -> Option<Vec<u8>> {
        let at = memmem::find(&self.kept, START)?;
        let id = self.kept.get(at + 1..)?;
        let end = memchr::memchr(b'"', id)?;
        id.get(..end).filter(|id| id.len() <= LONGEST).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str, size: usize) -> Option<Vec<u8>> {
        let mut reader = ResponseIdReader::default();
        answer.as_bytes().chunks(size).find_map(|chunk| reader.feed(chunk))
    }

    #[test]
    fn the_id_is_found_however_the_answer_is_cut() {
        let stream = "event: response.created\ndata: {\"response\":{\"id\":\"resp_ab12\",\"object\":\"response\"},\"sequence_number\":0}\n\n";
        let whole =
            "{\n  \"id\": \"resp_ab12\", \"object\": \"response\", \"output\": [{\"id\": \"msg_1\"}]}";
        for answer in [stream, whole] {
            for size in 1..answer.len() {
                assert_eq!(read(answer, size).as_deref(), Some(&b"resp_ab12"[..]), "{size}");
            }
        }
    }

    #[test]
    fn it_is_looked_for_near_the_start_alone() {
        let late = format!("{{\"output\": \"{}\", \"id\": \"resp_1\"}}", "x".repeat(LOOKED_AT));
        assert_eq!(read(&late, 1000), None);
        assert_eq!(read("data: {\"choices\":[]}", 5), None);
        assert_eq!(read(&format!("\"resp_{}\"", "x".repeat(LONGEST)), 7), None);
    }
}

//! Server-sent events, as they come: data may be cut anywhere, inside a line or a character.

/// Finds the data of events in pieces of a stream.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    /// A line that has not ended yet.
    line: Vec<u8>,
    /// The data of an event that has not ended yet.
    data: Vec<u8>,
    /// Whether the event has data at all, be it empty.
    some: bool,
}

impl SseParser {
    /// Takes the next piece; calls `each` with the data of every event that it completes.
    pub(super) fn feed(&mut self, mut piece: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some((line, rest)) =
            memchr::memchr(b'\n', piece).and_then(|at| Some((piece.get(..at)?, piece.get(at + 1..)?)))
        {
            piece = rest;
            if self.line.is_empty() {
                self.end_of_line(line, &mut each);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.end_of_line(&whole, &mut each);
                whole.clear();
                self.line = whole;
            }
        }
        self.line.extend_from_slice(piece);
    }

    fn end_of_line(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if std::mem::take(&mut self.some) {
                each(&self.data);
                self.data.clear();
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.some, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        // Other fields and comments mean nothing here.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut found) = (SseParser::default(), Vec::new());
        for piece in pieces {
            events.feed(piece, |data| found.push(String::from_utf8(data.to_vec()).unwrap()));
        }
        found
    }

    const STREAM: &[u8] =
        "data: {\"a\":1}\n\n: ping\r\nevent: x\r\ndata:na\u{ef}ve\r\n\r\ndata: two\ndata: lines\n\n\ndata: [DONE]\n\ndata: cut"
            .as_bytes();
    const FOUND: [&str; 4] = ["{\"a\":1}", "na\u{ef}ve", "two\nlines", "[DONE]"];

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        assert_eq!(all(&[STREAM]), FOUND);
        for cut in 0..STREAM.len() {
            assert_eq!(all(&[&STREAM[..cut], &STREAM[cut..]]), FOUND, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(all(&bytes), FOUND);
    }
}

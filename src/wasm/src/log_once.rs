//! Lines that every VM has to say at about the same time, and that are printed once.

use warmpath::Micros;
use warmpath::request::blocks::hash_of;
use warmpath::shared::codec::Reader;
use warmpath::shared::store::{Contended, compare_and_swap};

use crate::host::{self, Host};
use crate::log_batch::REPEAT_AFTER;

/// Lines that are remembered, by hash.
const LINES: usize = 32;
/// Bytes of one: its hash, and when it was said.
const SIZE: usize = 16;

/// Remembers in shared data what was said lately.
#[derive(Debug)]
pub struct LogOnce {
    key: String,
}

impl LogOnce {
    /// What is said under `key`.
    pub fn new(key: String) -> LogOnce {
        LogOnce { key }
    }

    /// Whether no VM has said `line` lately; it counts as said from now on.
    pub fn is_news(&self, line: &str) -> bool {
        let (hash, now) = (hash_of(line.as_bytes()), host::now());
        let said = compare_and_swap(&mut Host, &self.key, |bytes, _| {
            let mut said = bytes.unwrap_or_default();
            let lately = said.chunks_exact(SIZE).any(|entry| {
                let mut entry = Reader(entry);
                let (said, at) = (entry.u64(), entry.u64());
                said == Ok(hash) && at.is_ok_and(|at| now.since(Micros(at)) < REPEAT_AFTER)
            });
            if lately {
                return Err(None::<Contended>);
            }
            said.truncate((LINES - 1) * SIZE);
            said.splice(0..0, [hash.to_le_bytes(), now.0.to_le_bytes()].concat());
            Ok((said, ()))
        });
        // Where others always wrote first, the line is said once too often.
        !matches!(said, Err(None))
    }
}

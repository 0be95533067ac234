//! Answers of pods.

use warmpath::answer::first_token::{FirstEvent, FirstTokenReader};
use warmpath::answer::usage::UsageScanner;

/// A pod's answer; its first byte says where it is cut into chunks. The usage that is found does not depend
/// on it.
pub fn usage(bytes: &[u8]) {
    let Some((&cut, answer)) = bytes.split_first() else { return };
    let mut whole = UsageScanner::default();
    whole.feed(answer);
    let mut steady = UsageScanner::default();
    answer.chunks(1 + usize::from(cut)).for_each(|chunk| steady.feed(chunk));
    assert_eq!(steady.usage(), whole.usage());
    // Chunks of changing size, some of them empty.
    let (mut uneven, mut rest, mut size) = (UsageScanner::default(), answer, usize::from(cut));
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min(size));
        uneven.feed(chunk);
        rest = tail;
        size = (size * 5 + 3) % 97;
    }
    assert_eq!(uneven.usage(), whole.usage());
}

/// The start of an answer, whose first byte says how it is cut: its first events mean the same however it
/// arrives, and what is final stays.
pub fn first_token(bytes: &[u8]) {
    let Some((&first, answer)) = bytes.split_first() else { return };
    let mut whole = FirstTokenReader::default();
    let said = whole.feed(answer);
    let mut cut = FirstTokenReader::default();
    let mut last = FirstEvent::NotYet;
    for chunk in answer.chunks(1 + usize::from(first)) {
        let next = cut.feed(chunk);
        assert!(!last.is_final() || next == last, "{last:?} became {next:?}");
        last = next;
    }
    assert_eq!(last, said);
    let end = whole.end();
    assert_eq!(cut.end(), end);
    assert!(!said.is_final() || said == end);
    if let FirstEvent::Error(error) = end {
        assert!((400..600).contains(&error.status));
    }
}

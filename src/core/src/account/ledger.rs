//! What is in flight on every pod, for all workers of one Envoy together.
//!
//! One value in shared data, under compare-and-swap: read, decide, write. It also carries what the workers learn together
//! (each pod's prefill rate, each model's bytes a token) and the open segment of the index' [`log`](crate::prefix::log). Counts
//! saturate at zero: a close that comes twice or too late can make a pod look idle for a moment, never negative.

use crate::prefix::log::{LogRecord, SEGMENT_BYTES};
use crate::shared::codec::{CodecError, Reader};
use crate::{Micros, SECOND, Slot};

/// Marks a ledger, and its version.
const LEDGER_MARK: u32 = u32::from_le_bytes(*b"WPL3");
/// Models whose bytes a token are kept; beyond it the least recently learned makes room.
const MODELS: usize = 16;
/// Bytes before the slots: mark, slots, segment, opened, mean work, models.
const HEAD: usize = 4 + 2 + 8 + 8 + 4 + MODELS * 8;
/// Bytes of a slot.
const ENTRY: usize = 56;

/// Bytes a token before anything is learned: English text in common vocabularies.
pub const DEFAULT_BYTES_PER_TOKEN: f32 = 4.0;
/// Prompt tokens a second before anything is learned: a 7B model on an A10. Only ratios between pods, and to the constants
/// in seconds, depend on it.
pub const DEFAULT_RATE: f32 = 5_500.0;
/// First pause after a failure; doubles with each further one.
const FIRST_COOL_DOWN: Micros = SECOND;
/// Errors in a row, with no good answer between them, that are a failure of the pod: one or two may be the doing of their
/// requests.
const ERRORS: u16 = 3;
/// Longest pause: a pod that is back is found again within half a minute even when it cannot be scraped.
const LONGEST_COOL_DOWN: Micros = 30 * SECOND;

/// One pod's part of the ledger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PodAccount {
    /// The pod's identity in the table; an entry with another is of a pod that is gone.
    pub id: u32,
    /// Requests that were sent and have not ended.
    pub in_flight: u32,
    /// Those of them that wait for their first byte of body.
    pub waiting: u32,
    /// Prompt tokens those have still to compute.
    pub work: u32,
    /// Learned prefill rate in prompt tokens a second; 0 when nothing is learned.
    pub rate: f32,
    /// First-token times the rate was learned from.
    pub samples: u32,
    /// Failures since the last success.
    pub failures: u16,
    /// Requests that were ever sent to it; wraps, only differences count.
    pub opened: u16,
    /// Errors it has answered since its last good answer; 0 when its last failure was of another kind.
    pub errors: u16,
    /// When the last failure was seen.
    pub failed_at: Micros,
    /// Until when nobody sends to it.
    pub cool_until: Micros,
    /// Since when it computes the oldest of what waits: its last first token, or the request that found it idle.
    pub since: Micros,
}

impl PodAccount {
    const EMPTY: PodAccount = PodAccount {
        id: 0,
        in_flight: 0,
        waiting: 0,
        work: 0,
        rate: 0.0,
        samples: 0,
        failures: 0,
        opened: 0,
        errors: 0,
        failed_at: 0,
        cool_until: 0,
        since: 0,
    };

    /// The entry of a pod that has just appeared in a slot.
    pub fn new(id: u32) -> PodAccount {
        PodAccount { id, ..PodAccount::EMPTY }
    }

    /// The entry of a pod that has restarted: its machine is the same, so the rate is kept.
    pub fn restarted(id: u32, before: PodAccount) -> PodAccount {
        PodAccount { id, rate: before.rate, samples: before.samples, ..PodAccount::EMPTY }
    }

    /// A request with `work` prompt tokens to compute is sent. On a pod that had failed it is a probe: the others keep off
    /// until it has ended one way or the other, or the longest pause has passed. Only a failure moves `failed_at`: an answer
    /// that takes longer than the pause still says that the pod serves.
    pub fn open(&mut self, work: u32, now: Micros) {
        if self.waiting == 0 {
            self.since = now;
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.waiting = self.waiting.saturating_add(1);
        self.work = self.work.saturating_add(work);
        self.opened = self.opened.wrapping_add(1);
        if self.failures > 0 {
            self.cool_until = now.saturating_add(LONGEST_COOL_DOWN);
        }
    }

    /// The first byte of an answer's body has come to a request that was sent at `sent_at`: the prompt is computed, and the
    /// pod serves. One that was sent before the last failure does not say that it still would.
    pub fn start(&mut self, work: u32, sent_at: Micros, now: Micros) {
        self.since = now;
        self.leave(1, work);
        if sent_at >= self.failed_at {
            self.failures = 0;
            self.errors = 0;
            self.cool_until = 0;
        }
    }

    /// A request has ended; `unstarted` is what it had still to compute, if it never started. A probe that ends like this, its
    /// client gone, has shown nothing: the next one may come as soon as the pause after the failure is over.
    pub fn close(&mut self, unstarted: Option<u32>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.leave(u32::from(unstarted.is_some()), unstarted.unwrap_or(0));
        if unstarted.is_some() && self.failures > 0 && self.waiting == 0 {
            self.cool_until = self.cool_until.min(self.failed_at.saturating_add(self.cool_down()));
        }
    }

    /// So many requests wait no longer, for `work` together. What waits is in flight, so a count that was lost on the way, by a
    /// worker that trapped, ends at the latest when the pod is idle.
    fn leave(&mut self, requests: u32, work: u32) {
        let mean = self.work.checked_div(self.waiting).unwrap_or(0);
        let left = self.waiting.saturating_sub(requests);
        let lost = left.saturating_sub(self.in_flight);
        self.waiting = left - lost;
        let work = work.saturating_add(mean.saturating_mul(lost));
        self.work = if self.waiting == 0 { 0 } else { self.work.saturating_sub(work) };
    }

    /// The pod failed a request that was sent at `sent_at`. All that were under way when it failed the first one fail with it,
    /// and are one failure; a probe that fails is the next one.
    pub fn fail(&mut self, sent_at: Micros, now: Micros) {
        if self.count_failure(sent_at, now) {
            self.errors = 0;
        }
    }

    /// The pod answered a request that was sent at `sent_at` with an error of its own. A pod that does so at once always looks
    /// least busy and would draw all traffic to it, so several in a row are a failure; as the answer to a probe, one is.
    ///
    /// A prompt that no pod can compute looks the same. Among many others it does nothing, for their answers end the row. A
    /// client that sends it faster than a pod answers others can make pod after pod pause, each until its next good answer or
    /// for a second at first; when all of them do, the cost decides between them as if none did, and nobody is refused for it
    /// ([`Rank::Erring`](crate::decide::pick::Rank::Erring)).
    pub fn upstream_error(&mut self, sent_at: Micros, now: Micros) {
        self.errors = self.errors.saturating_add(1);
        if self.failures > 0 || self.errors >= ERRORS {
            self.count_failure(sent_at, now);
        }
    }

    /// Begins the next pause, if the request says something new.
    fn count_failure(&mut self, sent_at: Micros, now: Micros) -> bool {
        if self.failures > 0 && sent_at < self.failed_at {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
        self.cool_until = now.saturating_add(self.cool_down());
        true
    }

    /// Work that is still to be computed at `now` at `rate` tokens a second. What is booked of a prompt is taken off only at its
    /// first token; until then the time that has passed counts, but for `lag` tokens' worth of it, for one request of mean work
    /// at most: a pod that waits for memory makes no progress at all.
    pub fn remaining(&self, rate: f32, now: Micros, lag: f32) -> f32 {
        let work = self.work as f32;
        let passed = now.saturating_sub(self.since) as f32 / 1e6;
        work - (rate * passed - lag).max(0.0).min(work / self.waiting.max(1) as f32)
    }

    /// Whether requests should go elsewhere. `recovered_at` is when scrapes last began to succeed after they had failed:
    /// a pod that was gone and is back since its failure need not wait.
    pub fn cooling_down(&self, now: Micros, recovered_at: Micros) -> bool {
        self.failures > 0 && now < self.cool_until && recovered_at <= self.failed_at
    }

    /// Takes leaked requests out of the counts, `waiting` of them from those that wait, each with the mean work.
    pub fn reconcile(&mut self, leaked: u32, waiting: u32) {
        let mean = self.work.checked_div(self.waiting).unwrap_or(0);
        let waiting = waiting.min(leaked).min(self.waiting);
        self.in_flight = self.in_flight.saturating_sub(leaked);
        self.leave(waiting, mean.saturating_mul(waiting));
    }

    fn cool_down(&self) -> Micros {
        let doublings = u32::from(self.failures.saturating_sub(1)).min(10);
        (FIRST_COOL_DOWN << doublings).min(LONGEST_COOL_DOWN)
    }

    fn encode(&self, out: &mut [u8; ENTRY]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = out.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&self.id.to_le_bytes());
        put(&self.in_flight.to_le_bytes());
        put(&self.waiting.to_le_bytes());
        put(&self.work.to_le_bytes());
        put(&self.rate.to_le_bytes());
        put(&self.samples.to_le_bytes());
        put(&self.failures.to_le_bytes());
        put(&self.opened.to_le_bytes());
        put(&self.errors.to_le_bytes());
        put(&self.failed_at.to_le_bytes());
        put(&self.cool_until.to_le_bytes());
        put(&self.since.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<PodAccount, CodecError> {
        let mut from = Reader(bytes);
        Ok(PodAccount {
            id: from.u32()?,
            in_flight: from.u32()?,
            waiting: from.u32()?,
            work: from.u32()?,
            rate: from.amount()?,
            samples: from.u32()?,
            failures: from.u16()?,
            opened: from.u16()?,
            errors: from.u16()?,
            failed_at: from.u64()?,
            cool_until: from.u64()?,
            since: from.u64()?,
        })
    }
}

/// What is in flight on all pods together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Requests that were sent and have not ended.
    pub in_flight: u64,
    /// Those of them that wait for their first byte of body.
    pub waiting: u64,
    /// Prompt tokens those have still to compute.
    pub work: u64,
}

/// The ledger of a pool, as the bytes it is shared in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    bytes: Vec<u8>,
}

impl Default for Ledger {
    fn default() -> Self {
        let mut bytes = vec![0; HEAD];
        put(&mut bytes, 0, &LEDGER_MARK.to_le_bytes());
        Ledger { bytes }
    }
}

impl Ledger {
    /// Takes the bytes of a ledger.
    ///
    /// # Errors
    /// [`CodecError`] when they are not one: another version, cut short, or numbers out of range.
    pub fn decode(bytes: Vec<u8>) -> Result<Ledger, CodecError> {
        let ledger = Ledger { bytes };
        Reader(&ledger.bytes).mark(LEDGER_MARK)?;
        if ledger.bytes.len() < ledger.log_start() {
            return Err(CodecError::Truncated);
        }
        Ok(ledger)
    }

    /// The bytes to share.
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        usize::from(self.read(4, Reader::u16))
    }

    /// Makes room for `slots` slots; never takes room away.
    pub fn grow(&mut self, slots: usize) {
        let missing = slots.saturating_sub(self.slots());
        if missing > 0 {
            let at = self.log_start();
            self.bytes.splice(at..at, std::iter::repeat_n(0, missing * ENTRY));
            put(&mut self.bytes, 4, &(slots as u16).to_le_bytes());
        }
    }

    /// The entry of a slot; an empty one past the end or where the bytes make no sense.
    pub fn entry(&self, slot: Slot) -> PodAccount {
        let at = HEAD + usize::from(slot) * ENTRY;
        if usize::from(slot) >= self.slots() {
            return PodAccount::EMPTY;
        }
        self.bytes.get(at..at + ENTRY).and_then(|b| PodAccount::decode(b).ok()).unwrap_or(PodAccount::EMPTY)
    }

    /// All entries added up.
    pub fn totals(&self) -> LedgerTotals {
        (0..self.slots()).map(|slot| self.entry(slot as Slot)).fold(LedgerTotals::default(), |sum, entry| {
            LedgerTotals {
                in_flight: sum.in_flight + u64::from(entry.in_flight),
                waiting: sum.waiting + u64::from(entry.waiting),
                work: sum.work + u64::from(entry.work),
            }
        })
    }

    /// Changes the entry of `slot` if it is still the pod `id`; a pod that is gone has nothing to change.
    pub fn change(&mut self, slot: Slot, id: u32, with: impl FnOnce(&mut PodAccount)) {
        let mut entry = self.entry(slot);
        if entry.id == id && usize::from(slot) < self.slots() {
            with(&mut entry);
            self.write(slot, &entry);
        }
    }

    /// Writes the entry of a slot; past the end it is lost.
    pub fn write(&mut self, slot: Slot, entry: &PodAccount) {
        let at = HEAD + usize::from(slot) * ENTRY;
        if let Some(place) = self.bytes.get_mut(at..at + ENTRY).and_then(|b| b.first_chunk_mut()) {
            entry.encode(place);
        }
    }

    /// Requests opened since the ledger began: tells the collector whether there is traffic.
    pub fn opened(&self) -> u64 {
        self.read(14, Reader::u64)
    }

    /// Counts one request, and learns the mean work of a request: what another gateway's waiting requests are taken for.
    pub fn count_opened(&mut self, work: u32) {
        let opened = self.opened().wrapping_add(1);
        put(&mut self.bytes, 14, &opened.to_le_bytes());
        // The mean of about the last hundred; the plain mean until there are as many.
        let weight = 1.0 / (opened.min(100) as f32);
        let mean = self.mean_work() * (1.0 - weight) + work as f32 * weight;
        put(&mut self.bytes, 22, &mean.to_le_bytes());
    }

    /// Mean work of a request in prompt tokens.
    pub fn mean_work(&self) -> f32 {
        self.read(22, Reader::amount)
    }

    /// Canonical bytes a token of a model, learned or the default.
    pub fn bytes_per_token(&self, model: u32) -> f32 {
        self.models()
            .find(|&(name, ratio)| name == model && ratio > 0.0)
            .map_or(DEFAULT_BYTES_PER_TOKEN, |(_, r)| r)
    }

    /// Learns from an answer that a prompt of `bytes` canonical bytes had `tokens` tokens.
    pub fn learn_bytes_per_token(&mut self, model: u32, bytes: u64, tokens: u32) {
        // A short prompt is mostly template; an absurd ratio is an embedding, an image or an error.
        let ratio = bytes as f32 / tokens.max(1) as f32;
        if tokens < 16 || !(0.25..=32.0).contains(&ratio) {
            return;
        }
        let known = (0..).zip(self.models()).find(|&(_, (name, ratio))| name == model && ratio > 0.0);
        let (nth, learned) = match known {
            Some((nth, (_, before))) => (nth, before + (ratio - before) * 0.1),
            None => (MODELS - 1, ratio),
        };
        // The last learned goes to the front, so that the last place has the least recently learned, or is empty.
        if let Some(models) = self.bytes.get_mut(26..26 + (nth + 1) * 8) {
            models.rotate_right(8);
        }
        put(&mut self.bytes, 26, &model.to_le_bytes());
        put(&mut self.bytes, 30, &learned.to_le_bytes());
    }

    fn models(&self) -> impl Iterator<Item = (u32, f32)> {
        (0..MODELS).map(|nth| (self.read(26 + nth * 8, Reader::u32), self.read(30 + nth * 8, Reader::amount)))
    }

    /// Number of the open segment of the log.
    pub fn segment(&self) -> u64 {
        self.read(6, Reader::u64)
    }

    /// Records of the open segment.
    pub fn log(&self) -> &[u8] {
        self.bytes.get(self.log_start()..).unwrap_or_default()
    }

    /// Appends a record to the log. When the open segment has no room for it, starts a new one and returns the full one
    /// (its number and records) to be sealed once the ledger is written.
    pub fn append(&mut self, record: &LogRecord<'_>) -> Option<(u64, Vec<u8>)> {
        let full = !self.log().is_empty() && self.log().len() + record.size() > SEGMENT_BYTES;
        let sealed = full.then(|| {
            let number = self.segment();
            let records = self.bytes.split_off(self.log_start());
            put(&mut self.bytes, 6, &(number + 1).to_le_bytes());
            (number, records)
        });
        record.encode(&mut self.bytes);
        sealed
    }

    fn log_start(&self) -> usize {
        HEAD + self.slots() * ENTRY
    }

    fn read<'a, T: Default>(
        &'a self,
        at: usize,
        get: impl FnOnce(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> T {
        self.bytes.get(at..).and_then(|bytes| get(&mut Reader(bytes)).ok()).unwrap_or_default()
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = PodAccount> {
        (any::<[u32; 5]>(), 0.0f32..1e9, any::<[u16; 3]>(), any::<[u64; 3]>()).prop_map(
            |(
                [id, in_flight, waiting, work, samples],
                rate,
                [failures, opened, errors],
                [failed_at, cool_until, since],
            )| {
                PodAccount {
                    id,
                    in_flight,
                    waiting,
                    work,
                    rate,
                    samples,
                    failures,
                    opened,
                    errors,
                    failed_at,
                    cool_until,
                    since,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn entries_round_trip(list in prop::collection::vec(entries(), 1..20), log in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut ledger = Ledger::default();
            ledger.bytes.extend_from_slice(&log);
            ledger.grow(list.len());
            for (slot, entry) in list.iter().enumerate() {
                ledger.write(slot as Slot, entry);
            }
            let ledger = Ledger::decode(ledger.encode().to_vec()).unwrap();
            prop_assert_eq!(ledger.log(), log);
            for (slot, entry) in list.iter().enumerate() {
                prop_assert_eq!(ledger.entry(slot as Slot), *entry);
            }
        }

        #[test]
        fn truncations_and_bit_flips_never_panic(slots in 0usize..4, cut in 0usize..400, flip in 0usize..400, bit in 0u8..8) {
            let mut ledger = Ledger::default();
            ledger.grow(slots);
            let mut bytes = ledger.encode().to_vec();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            if let Ok(mut ledger) = Ledger::decode(bytes) {
                for slot in 0..6 {
                    ledger.change(slot, 0, |e| e.open(5, 1));
                    ledger.entry(slot);
                }
                ledger.count_opened(3);
                ledger.learn_bytes_per_token(1, 400, 100);
                ledger.append(&LogRecord { writer: 1, slot: 0, id: 0, correction: None, hashes: &[0; 8] });
            }
        }
    }

    #[test]
    fn a_request_leaves_nothing_behind() {
        let mut entry = PodAccount::new(1);
        entry.open(100, 0);
        entry.open(50, 0);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (2, 2, 150));
        entry.start(100, 0, 0);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (2, 1, 50));
        entry.close(None);
        entry.close(Some(50));
        assert_eq!(entry, PodAccount { opened: 2, ..PodAccount::new(1) });
        entry.close(Some(50));
        assert_eq!(entry, PodAccount { opened: 2, ..PodAccount::new(1) }, "never negative");
    }

    #[test]
    fn an_idle_pod_has_nothing_that_waits() {
        let mut entry = PodAccount::new(1);
        (0..3).for_each(|_| entry.open(100, 0));
        // Their starts were never written.
        entry.close(None);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (2, 2, 200));
        entry.close(None);
        entry.close(None);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (0, 0, 0));
    }

    #[test]
    fn leaks_are_taken_out_of_what_waits_as_far_as_they_wait() {
        let mut entry = PodAccount::new(1);
        (0..10).for_each(|_| entry.open(100, 0));
        (0..6).for_each(|_| entry.start(100, 0, 0));
        entry.reconcile(3, 2);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (7, 2, 200));
        entry.reconcile(9, 0);
        assert_eq!((entry.in_flight, entry.waiting, entry.work), (0, 0, 0));
    }

    #[test]
    fn an_answer_that_takes_longer_than_the_pause_heals() {
        let mut entry = PodAccount::new(1);
        entry.fail(0, 0);
        // Prompts of five seconds, one sent after the other.
        for sent in [SECOND, 3 * SECOND] {
            entry.open(1, sent);
        }
        assert!(entry.cooling_down(5 * SECOND, 0), "no second probe while one is unanswered");
        assert!(!entry.cooling_down(3 * SECOND + LONGEST_COOL_DOWN, 0), "but not for ever");
        entry.start(1, SECOND, 6 * SECOND);
        assert_eq!((entry.failures, entry.cool_until), (0, 0));
    }

    #[test]
    fn a_probe_whose_client_goes_away_lets_the_next_one_come() {
        let mut entry = PodAccount::new(1);
        entry.fail(0, 0);
        entry.open(1, 2 * SECOND);
        entry.close(Some(1));
        assert!(!entry.cooling_down(2 * SECOND, 0));
        entry.open(1, 3 * SECOND);
        entry.fail(3 * SECOND, 4 * SECOND);
        entry.close(Some(1));
        assert_eq!((entry.failures, entry.cool_until), (2, 6 * SECOND));
    }

    #[test]
    fn pauses_double_and_one_request_probes() {
        let mut entry = PodAccount::EMPTY;
        entry.fail(0, 0);
        assert!(entry.cooling_down(SECOND - 1, 0));
        assert!(!entry.cooling_down(SECOND, 0));
        entry.open(1, SECOND);
        assert!(entry.cooling_down(SECOND, 0), "while it is probed");
        entry.fail(SECOND, SECOND);
        assert!(entry.cooling_down(3 * SECOND - 1, 0));
        for _ in 0..20 {
            entry.fail(5 * SECOND, 5 * SECOND);
        }
        assert_eq!(entry.cool_until, 5 * SECOND + LONGEST_COOL_DOWN);
        entry.start(1, 5 * SECOND, 6 * SECOND);
        assert!(!entry.cooling_down(5 * SECOND, 0));
    }

    #[test]
    fn what_was_under_way_fails_as_one_and_does_not_heal() {
        let mut entry = PodAccount::EMPTY;
        for _ in 0..30 {
            entry.open(1, 10);
        }
        (20..50).for_each(|now| entry.fail(10, now));
        assert_eq!((entry.failures, entry.cool_until), (1, 20 + SECOND));
        entry.start(1, 10, 60);
        assert!(entry.cooling_down(60, 0), "an answer that was under way says nothing of the next one");
        entry.open(1, 2 * SECOND);
        entry.fail(10, 2 * SECOND + 1);
        assert_eq!(entry.failures, 1, "only the probe says something new");
        entry.fail(2 * SECOND, 2 * SECOND + 2);
        assert_eq!(entry.failures, 2);
    }

    #[test]
    fn errors_in_a_row_are_a_failure_and_a_good_answer_ends_the_row() {
        let mut entry = PodAccount::new(1);
        for sent in 0..10 {
            entry.upstream_error(sent, sent);
            entry.upstream_error(sent, sent);
            assert!(!entry.cooling_down(sent, 0));
            entry.start(1, sent, sent);
        }
        (10..13).for_each(|sent| entry.upstream_error(sent, sent));
        assert_eq!((entry.failures, entry.cool_until), (1, 12 + SECOND));
        // What was under way is the same failure, and heals nothing.
        entry.upstream_error(11, 20);
        entry.start(1, 11, 21);
        assert_eq!((entry.failures, entry.cool_until), (1, 12 + SECOND));
        // One probe that errs is the next one.
        entry.open(1, 2 * SECOND);
        entry.close(Some(1));
        entry.upstream_error(2 * SECOND, 2 * SECOND);
        assert_eq!((entry.failures, entry.cool_until), (2, 4 * SECOND));
        entry.open(1, 5 * SECOND);
        entry.start(1, 5 * SECOND, 6 * SECOND);
        assert_eq!((entry.failures, entry.errors, entry.cool_until), (0, 0, 0));
    }

    #[test]
    fn the_last_failure_says_of_which_kind_it_is() {
        let mut entry = PodAccount::new(1);
        (0..3).for_each(|sent| entry.upstream_error(sent, sent));
        entry.fail(SECOND, SECOND);
        assert_eq!((entry.failures, entry.errors), (2, 0), "it cannot be reached now");
        entry.upstream_error(3 * SECOND, 3 * SECOND);
        assert_eq!((entry.failures, entry.errors), (3, 1), "and now it can");
    }

    #[test]
    fn a_pod_that_was_gone_and_is_back_need_not_wait() {
        let mut entry = PodAccount::EMPTY;
        entry.fail(10, 10);
        assert!(entry.cooling_down(20, 10));
        assert!(!entry.cooling_down(20, 11));
    }

    #[test]
    fn another_pod_in_the_slot_is_not_touched() {
        let mut ledger = Ledger::default();
        ledger.grow(1);
        ledger.write(0, &PodAccount { in_flight: 3, ..PodAccount::new(7) });
        ledger.change(0, 6, |entry| entry.close(None));
        assert_eq!(ledger.entry(0).in_flight, 3);
    }

    #[test]
    fn the_log_is_sealed_when_full() {
        let mut ledger = Ledger::default();
        ledger.grow(2);
        let record = LogRecord { writer: 1, slot: 1, id: 1, correction: None, hashes: &[7; 400] };
        let fitting = SEGMENT_BYTES / record.size();
        for _ in 0..fitting {
            assert_eq!(ledger.append(&record), None);
        }
        let (number, records) = ledger.append(&record).unwrap();
        assert_eq!((number, records.len()), (0, fitting * record.size()));
        assert_eq!((ledger.segment(), ledger.log().len()), (1, record.size()));
    }

    #[test]
    fn bytes_per_token_are_learned_for_each_model() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.bytes_per_token(1), 4.0);
        ledger.learn_bytes_per_token(1, 3000, 1000);
        ledger.learn_bytes_per_token(2, 1500, 1000);
        assert_eq!((ledger.bytes_per_token(1), ledger.bytes_per_token(2)), (3.0, 1.5));
        ledger.learn_bytes_per_token(1, 10, 15);
        ledger.learn_bytes_per_token(1, 1_000_000, 100);
        assert_eq!(ledger.bytes_per_token(1), 3.0);
        for model in 0..100 {
            ledger.learn_bytes_per_token(model, 2000, 1000);
        }
        assert_eq!(ledger.bytes_per_token(99), 2.0);
    }

    #[test]
    fn the_least_recently_learned_model_makes_room() {
        let mut ledger = Ledger::default();
        for model in 0..MODELS as u32 + 4 {
            ledger.learn_bytes_per_token(model, 2000, 1000);
            // One that is always in use, whatever else comes.
            ledger.learn_bytes_per_token(1000, 3000, 1000);
        }
        let kept: Vec<bool> = (0..20).map(|model| ledger.bytes_per_token(model) == 2.0).collect();
        assert_eq!(kept, [vec![false; 5], vec![true; 15]].concat());
        assert_eq!(ledger.bytes_per_token(1000), 3.0);
    }
}

//! The ledger of a pool as bytes: where each number lies in the one value that all workers read and write.
//!
//! It holds an account per pod ([`PodAccount`]), what the workers learn together (each model's bytes per token, the mean
//! work of a request), what pods have refused lately ([`Refusal`]), and at its end the open segment of the index'
//! [`log`](crate::prefix::log). This file is the layout alone: what the numbers mean stands with the types that it reads
//! and writes.

use crate::account::cache_tally::CacheTally;
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::PodHealth;
use crate::account::refusals::{self, Refusal};
use crate::prefix::log::{LogRecord, OpenSegment, SEGMENT_BYTES, SealedSegment};
use crate::shared::codec::{CodecError, Field};
use crate::shared::pod_table::PodKey;
use crate::{Micros, Slot, Tokens};

/// Marks a ledger, and the version of its format.
const LEDGER_MARK: u32 = u32::from_le_bytes(*b"WPL9");
/// Models whose bytes per token are kept; the least recently learned one makes room for another.
pub const MODELS: usize = 16;

/// The head of a ledger, before the ratios of models, the accounts and the log.
mod head {
    use super::Field;

    pub const MARK: Field<u32> = Field::FIRST;
    /// How many accounts there are.
    pub const SLOTS: Field<u16> = MARK.then();
    /// Number of the log's open segment.
    pub const SEGMENT: Field<u64> = SLOTS.then();
    pub const ROUTED: Field<u64> = SEGMENT.then();
    pub const PROMPTS: Field<u64> = ROUTED.then();
    pub const MEAN_WORK: Field<f32> = PROMPTS.then();
    /// How many refusals there are.
    pub const REFUSALS: Field<u16> = MEAN_WORK.then();
    pub const SIZE: usize = REFUSALS.end();
}

/// What is learned of one model.
mod model {
    use super::Field;

    pub const NAME: Field<u32> = Field::FIRST;
    pub const BYTES_PER_TOKEN: Field<f32> = NAME.then();
    pub const SIZE: usize = BYTES_PER_TOKEN.end();
}

/// The account of one pod.
mod account {
    use super::Field;

    pub const ID: Field<u32> = Field::FIRST;
    pub const IN_FLIGHT: Field<u32> = ID.then();
    pub const WAITING: Field<u32> = IN_FLIGHT.then();
    pub const OUTSTANDING: Field<u32> = WAITING.then();
    pub const RATE: Field<f32> = OUTSTANDING.then();
    pub const SAMPLES: Field<u32> = RATE.then();
    pub const FAILURES: Field<u16> = SAMPLES.then();
    pub const ERRORS: Field<u16> = FAILURES.then();
    pub const FAILED_AT: Field<u64> = ERRORS.then();
    pub const COOL_UNTIL: Field<u64> = FAILED_AT.then();
    pub const PROBES: Field<u16> = COOL_UNTIL.then();
    pub const FULL_AT: Field<u64> = PROBES.then();
    pub const DECLINED_AT: Field<u64> = FULL_AT.then();
    pub const SINCE: Field<u64> = DECLINED_AT.then();
    pub const OPENED: Field<u32> = SINCE.then();
    pub const FAILED: Field<u32> = OPENED.then();
    pub const ERRED: Field<u32> = FAILED.then();
    pub const TALLY_SINCE: Field<u64> = ERRED.then();
    pub const TALLY_TOKENS: Field<u32> = TALLY_SINCE.then();
    pub const TALLY_ANSWERS: Field<u16> = TALLY_TOKENS.then();
    pub const FIRST_TOKENS: Field<u32> = TALLY_ANSWERS.then();
    pub const FIRST_TOKEN_MS: Field<u32> = FIRST_TOKENS.then();
    pub const SIZE: usize = FIRST_TOKEN_MS.end();
}

const MODELS_AT: usize = head::SIZE;
const ACCOUNTS_AT: usize = MODELS_AT + MODELS * model::SIZE;

/// The model of a request, by the hash of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelId(pub u32);

/// The accounts of all pods added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Requests that were sent and have not ended.
    pub in_flight: u64,
    /// Those of them that wait for the first byte of their answer's body.
    pub waiting: u64,
    /// Prompt tokens that the waiting requests have still to be computed.
    pub outstanding: u64,
}

/// The ledger of a pool, as the bytes that it is shared in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    bytes: Vec<u8>,
    /// Segments that were filled since the ledger was read: written to their keys once the ledger is written.
    sealed: Vec<SealedSegment>,
}

impl Default for Ledger {
    fn default() -> Self {
        let mut bytes = vec![0; ACCOUNTS_AT];
        head::MARK.put(&mut bytes, LEDGER_MARK);
        Ledger { bytes, sealed: Vec::new() }
    }
}

impl AsRef<[u8]> for Ledger {
    /// The bytes to share.
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Ledger {
    /// Takes the bytes of a ledger.
    ///
    /// # Errors
    /// [`CodecError`] when they are not one: another version, or cut short.
    pub fn decode(bytes: Vec<u8>) -> Result<Ledger, CodecError> {
        let ledger = Ledger { bytes, sealed: Vec::new() };
        head::MARK.expect(&ledger.bytes, LEDGER_MARK)?;
        if ledger.bytes.len() < ledger.log_at() {
            return Err(CodecError::Truncated);
        }
        Ok(ledger)
    }

    // --- accounts ---

    /// How many accounts there are.
    pub fn slots(&self) -> usize {
        usize::from(head::SLOTS.get(&self.bytes))
    }

    /// Makes room for the accounts of `slots` slots; never takes room away.
    pub fn grow(&mut self, slots: usize) {
        let missing = slots.saturating_sub(self.slots());
        if missing > 0 {
            let at = self.refusals_at();
            self.bytes.splice(at..at, std::iter::repeat_n(0, missing * account::SIZE));
            head::SLOTS.put(&mut self.bytes, slots as u16);
        }
    }

    /// The account in a slot; an empty one past the end, or where the bytes make no sense.
    pub fn account(&self, slot: Slot) -> PodAccount {
        if usize::from(slot) >= self.slots() {
            return PodAccount::default();
        }
        let at = account_at(slot);
        self.bytes.get(at..).and_then(|bytes| decode_account(bytes.first_chunk()?)).unwrap_or_default()
    }

    /// All accounts, in the order of the slots.
    pub fn accounts(&self) -> impl Iterator<Item = PodAccount> {
        Slot::all().take(self.slots()).map(|slot| self.account(slot))
    }

    /// Writes the account in a slot; past the end it is lost.
    pub fn set_account(&mut self, slot: Slot, of: &PodAccount) {
        if usize::from(slot) >= self.slots() {
            return;
        }
        if let Some(place) = self.bytes.get_mut(account_at(slot)..).and_then(|bytes| bytes.first_chunk_mut())
        {
            encode_account(of, place);
        }
    }

    /// Changes the account of a pod. A pod that is gone has none, and nothing happens.
    pub fn change(&mut self, pod: PodKey, with: impl FnOnce(&mut PodAccount)) {
        let mut account = self.account(pod.slot);
        if account.id == pod.id {
            with(&mut account);
            self.set_account(pod.slot, &account);
        }
    }

    /// All accounts added up.
    pub fn totals(&self) -> LedgerTotals {
        let mut totals = LedgerTotals::default();
        for account in self.accounts() {
            totals.in_flight += u64::from(account.in_flight);
            totals.waiting += u64::from(account.waiting);
            totals.outstanding += u64::from(account.outstanding.0);
        }
        totals
    }

    // --- what pods have refused lately ---

    /// Whether there are any.
    pub fn has_refusals(&self) -> bool {
        head::REFUSALS.get(&self.bytes) > 0
    }

    /// The refusals, in no order.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> {
        let bytes = self.bytes.get(self.refusals_at()..self.log_at()).unwrap_or_default();
        bytes.chunks_exact(refusals::layout::SIZE).map(Refusal::decode)
    }

    pub(super) fn set_refusals(&mut self, list: &[Refusal]) {
        let places = self.refusals_at()..self.log_at();
        if places.end <= self.bytes.len() {
            self.bytes.splice(places, list.iter().flat_map(Refusal::encode));
            head::REFUSALS.put(&mut self.bytes, list.len() as u16);
        }
    }

    // --- what the workers learn together ---

    /// Requests that were ever routed to a pod, prompts or not. It wraps; a change shows that there is traffic.
    pub fn routed(&self) -> u64 {
        head::ROUTED.get(&self.bytes)
    }

    /// Counts a routed request.
    pub fn count_routed(&mut self) {
        let routed = self.routed().wrapping_add(1);
        head::ROUTED.put(&mut self.bytes, routed);
    }

    /// Prompts that were ever routed. It wraps.
    pub fn prompts(&self) -> u64 {
        head::PROMPTS.get(&self.bytes)
    }

    /// Mean work of a prompt, in prompt tokens.
    pub fn mean_work(&self) -> f32 {
        head::MEAN_WORK.amount(&self.bytes).unwrap_or_default()
    }

    pub(super) fn set_mean_work(&mut self, prompts: u64, mean: f32) {
        head::PROMPTS.put(&mut self.bytes, prompts);
        head::MEAN_WORK.put(&mut self.bytes, mean);
    }

    /// The models and their bytes per token, the last learned first; 0 where there is none.
    pub(super) fn models(&self) -> impl Iterator<Item = (ModelId, f32)> {
        let models = self.bytes.get(MODELS_AT..ACCOUNTS_AT).unwrap_or_default();
        models.chunks_exact(model::SIZE).map(|bytes| {
            (ModelId(model::NAME.get(bytes)), model::BYTES_PER_TOKEN.amount(bytes).unwrap_or_default())
        })
    }

    /// Puts a model first, in the place of the one that was `nth` before.
    pub(super) fn put_model_first(&mut self, nth: usize, name: ModelId, bytes_per_token: f32) {
        let end = MODELS_AT + (nth + 1) * model::SIZE;
        if let Some(models) = self.bytes.get_mut(MODELS_AT..end.min(ACCOUNTS_AT)) {
            models.rotate_right(model::SIZE);
            model::NAME.put(models, name.0);
            model::BYTES_PER_TOKEN.put(models, bytes_per_token);
        }
    }

    // --- the end of the log ---

    /// The open segment of the log.
    pub fn log(&self) -> OpenSegment<'_> {
        OpenSegment {
            number: head::SEGMENT.get(&self.bytes),
            records: self.bytes.get(self.log_at()..).unwrap_or_default(),
        }
    }

    /// Appends a record to the log. When the open segment has no room for it, it is sealed and a new one begins.
    pub fn append(&mut self, record: &LogRecord<'_>) {
        let OpenSegment { number, records } = self.log();
        if !records.is_empty() && records.len() + record.size() > SEGMENT_BYTES {
            let records = self.bytes.split_off(self.log_at());
            self.sealed.push(SealedSegment { number, records });
            head::SEGMENT.put(&mut self.bytes, number + 1);
        }
        record.encode(&mut self.bytes);
    }

    /// The segments that were sealed since the ledger was read.
    pub fn sealed(&self) -> &[SealedSegment] {
        &self.sealed
    }

    fn refusals_at(&self) -> usize {
        ACCOUNTS_AT + self.slots() * account::SIZE
    }

    fn log_at(&self) -> usize {
        self.refusals_at() + usize::from(head::REFUSALS.get(&self.bytes)) * refusals::layout::SIZE
    }
}

fn account_at(slot: Slot) -> usize {
    ACCOUNTS_AT + usize::from(slot) * account::SIZE
}

fn encode_account(of: &PodAccount, bytes: &mut [u8; account::SIZE]) {
    account::ID.put(bytes, of.id);
    account::IN_FLIGHT.put(bytes, of.in_flight);
    account::WAITING.put(bytes, of.waiting);
    account::OUTSTANDING.put(bytes, of.outstanding.0);
    account::RATE.put(bytes, of.rate);
    account::SAMPLES.put(bytes, of.samples);
    account::FAILURES.put(bytes, of.health.failures);
    account::ERRORS.put(bytes, of.health.errors);
    account::FAILED_AT.put(bytes, of.health.failed_at.0);
    account::COOL_UNTIL.put(bytes, of.health.cool_until.0);
    account::PROBES.put(bytes, of.health.probes);
    account::FULL_AT.put(bytes, of.health.full_at.0);
    account::DECLINED_AT.put(bytes, of.health.declined_at.0);
    account::SINCE.put(bytes, of.since.0);
    account::OPENED.put(bytes, of.opened);
    account::FAILED.put(bytes, of.failed);
    account::ERRED.put(bytes, of.erred);
    account::TALLY_SINCE.put(bytes, of.cache.since.0);
    account::TALLY_TOKENS.put(bytes, of.cache.tokens.0);
    account::TALLY_ANSWERS.put(bytes, of.cache.answers);
    account::FIRST_TOKENS.put(bytes, of.first_tokens);
    account::FIRST_TOKEN_MS.put(bytes, of.first_token_ms);
}

fn decode_account(bytes: &[u8; account::SIZE]) -> Option<PodAccount> {
    Some(PodAccount {
        id: account::ID.get(bytes),
        in_flight: account::IN_FLIGHT.get(bytes),
        waiting: account::WAITING.get(bytes),
        outstanding: Tokens(account::OUTSTANDING.get(bytes)),
        rate: account::RATE.amount(bytes)?,
        samples: account::SAMPLES.get(bytes),
        opened: account::OPENED.get(bytes),
        failed: account::FAILED.get(bytes),
        erred: account::ERRED.get(bytes),
        first_tokens: account::FIRST_TOKENS.get(bytes),
        first_token_ms: account::FIRST_TOKEN_MS.get(bytes),
        since: Micros(account::SINCE.get(bytes)),
        cache: CacheTally {
            since: Micros(account::TALLY_SINCE.get(bytes)),
            tokens: Tokens(account::TALLY_TOKENS.get(bytes)),
            answers: account::TALLY_ANSWERS.get(bytes),
        },
        health: PodHealth {
            failures: account::FAILURES.get(bytes),
            errors: account::ERRORS.get(bytes),
            failed_at: Micros(account::FAILED_AT.get(bytes)),
            cool_until: Micros(account::COOL_UNTIL.get(bytes)),
            probes: account::PROBES.get(bytes),
            full_at: Micros(account::FULL_AT.get(bytes)),
            declined_at: Micros(account::DECLINED_AT.get(bytes)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, MILLISECOND};
    use proptest::prelude::*;

    fn accounts() -> impl Strategy<Value = PodAccount> {
        (any::<[u32; 11]>(), 0.0f32..1e9, any::<[u16; 4]>(), any::<[u64; 5]>()).prop_map(
            |(
                [
                    id,
                    in_flight,
                    waiting,
                    outstanding,
                    samples,
                    opened,
                    failed,
                    erred,
                    tokens,
                    first_tokens,
                    first_token_ms,
                ],
                rate,
                [failures, errors, probes, answers],
                [failed_at, cool_until, full_at, declined_at, since],
            )| PodAccount {
                id,
                in_flight,
                waiting,
                outstanding: Tokens(outstanding),
                rate,
                samples,
                opened,
                failed,
                erred,
                first_tokens,
                first_token_ms,
                since: Micros(since),
                cache: CacheTally { since: Micros(since), tokens: Tokens(tokens), answers },
                health: PodHealth {
                    failures,
                    errors,
                    failed_at: Micros(failed_at),
                    cool_until: Micros(cool_until),
                    probes,
                    full_at: Micros(full_at),
                    declined_at: Micros(declined_at),
                },
            },
        )
    }

    fn record(hashes: &[u8]) -> LogRecord<'_> {
        LogRecord { writer: 1, pod: PodKey { slot: Slot(1), id: 1 }, correction: None, hashes }
    }

    proptest! {
        #[test]
        fn accounts_round_trip(list in prop::collection::vec(accounts(), 1..20), log in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut ledger = Ledger::default();
            ledger.bytes.extend_from_slice(&log);
            ledger.grow(list.len());
            for (slot, account) in list.iter().enumerate() {
                ledger.set_account(Slot(slot as u16), account);
            }
            let ledger = Ledger::decode(ledger.as_ref().to_vec()).unwrap();
            prop_assert_eq!(ledger.log().records, log);
            for (slot, account) in list.iter().enumerate() {
                prop_assert_eq!(ledger.account(Slot(slot as u16)), *account);
            }
        }

        #[test]
        fn truncations_and_bit_flips_never_panic(slots in 0usize..4, cut in 0usize..450, flip in 0usize..450, bit in 0u8..8) {
            let mut ledger = Ledger::default();
            ledger.grow(slots);
            let mut bytes = ledger.as_ref().to_vec();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            if let Ok(mut ledger) = Ledger::decode(bytes) {
                for slot in 0..6 {
                    ledger.change(PodKey { slot: Slot(slot), id: 0 }, |account| _ = account.open(Tokens(5), MILLISECOND));
                    ledger.account(Slot(slot));
                }
                ledger.count_routed();
                ledger.learn_mean_work(Tokens(3));
                ledger.learn_bytes_per_token(ModelId(1), Bytes(400), Tokens(100));
                ledger.append(&record(&[0; 8]));
            }
        }
    }

    #[test]
    fn the_layout_is_the_one_of_its_mark() {
        // Another layout needs another mark, or two versions of the module misread each other's ledgers.
        assert_eq!((head::SIZE, model::SIZE, account::SIZE), (36, 8, 104));
        assert_eq!(ACCOUNTS_AT, 164);
        let mut ledger = Ledger::default();
        ledger.grow(1);
        ledger.count_routed();
        ledger.set_account(Slot(0), &PodAccount { in_flight: 0x0102, ..PodAccount::new(7) });
        let mut expected = [0; 164 + 104];
        expected[..6].copy_from_slice(b"WPL9\x01\x00");
        expected[14] = 1;
        expected[164] = 7;
        expected[168..170].copy_from_slice(&[2, 1]);
        assert_eq!(ledger.as_ref(), expected);
    }

    #[test]
    fn bytes_that_are_no_ledger_are_refused() {
        assert_eq!(Ledger::decode(b"WPL".to_vec()), Err(CodecError::Truncated));
        assert_eq!(
            Ledger::decode(vec![b'x'; 400]),
            Err(CodecError::Version { found: u32::from_le_bytes(*b"xxxx") })
        );
        let mut ledger = Ledger::default();
        ledger.grow(3);
        let mut bytes = ledger.as_ref().to_vec();
        bytes.pop();
        assert_eq!(Ledger::decode(bytes), Err(CodecError::Truncated));
    }

    #[test]
    fn another_pod_in_the_slot_is_not_changed() {
        let mut ledger = Ledger::default();
        ledger.grow(1);
        ledger.set_account(Slot(0), &PodAccount { in_flight: 3, ..PodAccount::new(7) });
        ledger.change(PodKey { slot: Slot(0), id: 6 }, |account| account.close(None));
        assert_eq!(ledger.account(Slot(0)).in_flight, 3);
        ledger.change(PodKey { slot: Slot(0), id: 7 }, |account| account.close(None));
        assert_eq!(ledger.account(Slot(0)).in_flight, 2);
    }

    #[test]
    fn an_account_past_the_end_is_not_written_into_the_log() {
        let mut ledger = Ledger::default();
        ledger.append(&record(&[7; 400]));
        let before = ledger.clone();
        ledger.set_account(Slot(0), &PodAccount::new(3));
        ledger.change(PodKey { slot: Slot(0), id: 0 }, |account| _ = account.open(Tokens(1), MILLISECOND));
        assert_eq!(ledger, before);
    }

    #[test]
    fn a_full_segment_is_sealed_and_the_next_one_begins() {
        let mut ledger = Ledger::default();
        ledger.grow(2);
        let record = record(&[7; 400]);
        let fitting = SEGMENT_BYTES / record.size();
        (0..fitting).for_each(|_| ledger.append(&record));
        assert!(ledger.sealed().is_empty());
        ledger.append(&record);
        let [sealed] = ledger.sealed() else { panic!("one segment is sealed") };
        assert_eq!((sealed.number, sealed.records.len()), (0, fitting * record.size()));
        assert_eq!((ledger.log().number, ledger.log().records.len()), (1, record.size()));
    }
}

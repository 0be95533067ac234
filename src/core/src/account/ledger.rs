//! The ledger of a pool: the one value that all workers read and write, as bytes.
//!
//! It holds an account per pod ([`PodAccount`]), what the workers learn together (each model's bytes per
//! token, the mean work of a request), what pods have refused lately ([`Refusal`]), and at its end the open
//! segment of the index' [`log`](crate::prefix::log). Where each number lies is in [`layout`]; what the
//! numbers mean stands with the types that it reads and writes.

mod layout;

use crate::account::pod_account::PodAccount;
use crate::account::refusal::{self, Refusal};
use crate::prefix::log::{LogRecord, OpenSegment, SEGMENT_BYTES, SealedSegment};
use crate::shared::codec::CodecError;
use crate::shared::pod_table::PodKey;
use crate::{ModelId, Slot};
pub use layout::MODELS;
use layout::{
    ACCOUNTS_AT, LEDGER_MARK, MODELS_AT, account, account_at, decode_account, encode_account, head, model,
};

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
        bytes.chunks_exact(refusal::layout::SIZE).map(Refusal::decode)
    }

    pub(super) fn set_refusals(&mut self, list: &[Refusal]) {
        let places = self.refusals_at()..self.log_at();
        if places.end <= self.bytes.len() {
            self.bytes.splice(places, list.iter().flat_map(Refusal::encode));
            head::REFUSALS.put(&mut self.bytes, list.len() as u16);
        }
    }

    // --- what the workers learn together ---

    /// Requests that were ever routed to a pod, prompts or not. It wraps; a change shows that there is
    /// traffic.
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

    /// Appends a record to the log. When the open segment has no room for it, it is sealed and a new one
    /// begins.
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
        self.refusals_at() + usize::from(head::REFUSALS.get(&self.bytes)) * refusal::layout::SIZE
    }
}

#[cfg(test)]
mod tests;

//! Where each number of a ledger lies: the head, the models, then the accounts. Refusals and the log follow.

use crate::account::cache_tally::CacheTally;
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::PodHealth;
use crate::shared::codec::Field;
use crate::{Micros, Slot, Tokens};

/// Marks a ledger, and the version of its format.
pub const LEDGER_MARK: u32 = u32::from_le_bytes(*b"WPLA");
/// Models whose bytes per token are kept; the least recently learned one makes room for another.
pub const MODELS: usize = 16;

/// The head of a ledger, before the ratios of models, the accounts and the log.
pub mod head {
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
pub mod model {
    use super::Field;

    pub const NAME: Field<u32> = Field::FIRST;
    pub const BYTES_PER_TOKEN: Field<f32> = NAME.then();
    pub const SIZE: usize = BYTES_PER_TOKEN.end();
}

/// The account of one pod.
pub mod account {
    use super::Field;

    pub const ID: Field<u32> = Field::FIRST;
    pub const IN_FLIGHT: Field<u32> = ID.then();
    pub const WAITING: Field<u32> = IN_FLIGHT.then();
    pub const OUTSTANDING: Field<u32> = WAITING.then();
    pub const RATE: Field<f32> = OUTSTANDING.then();
    pub const SAMPLES: Field<u16> = RATE.then();
    pub const ON_TRIAL: Field<u16> = SAMPLES.then();
    pub const FAILURES: Field<u16> = ON_TRIAL.then();
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
    pub const TRIED_AT: Field<u32> = FIRST_TOKEN_MS.then();
    pub const SIZE: usize = TRIED_AT.end();
}

pub const MODELS_AT: usize = head::SIZE;
pub const ACCOUNTS_AT: usize = MODELS_AT + MODELS * model::SIZE;

pub fn account_at(slot: Slot) -> usize {
    ACCOUNTS_AT + usize::from(slot) * account::SIZE
}

pub fn encode_account(of: &PodAccount, bytes: &mut [u8; account::SIZE]) {
    account::ID.put(bytes, of.id);
    account::IN_FLIGHT.put(bytes, of.in_flight);
    account::WAITING.put(bytes, of.waiting);
    account::OUTSTANDING.put(bytes, of.outstanding.0);
    account::RATE.put(bytes, of.rate);
    account::SAMPLES.put(bytes, of.samples);
    account::ON_TRIAL.put(bytes, of.on_trial.into());
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
    account::TRIED_AT.put(bytes, of.tried_at);
}

pub fn decode_account(bytes: &[u8; account::SIZE]) -> Option<PodAccount> {
    Some(PodAccount {
        id: account::ID.get(bytes),
        in_flight: account::IN_FLIGHT.get(bytes),
        waiting: account::WAITING.get(bytes),
        outstanding: Tokens(account::OUTSTANDING.get(bytes)),
        rate: account::RATE.amount(bytes)?,
        samples: account::SAMPLES.get(bytes),
        on_trial: account::ON_TRIAL.get(bytes) != 0,
        tried_at: account::TRIED_AT.get(bytes),
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

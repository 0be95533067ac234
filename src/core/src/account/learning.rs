//! What answers teach: each pod's prefill rate, each model's bytes per token, the mean work of a prompt, and
//! where the index was wrong.

use crate::account::ledger::{Ledger, MODELS};
use crate::account::pod_account::PodAccount;
use crate::answer::usage::Usage;
use crate::request::blocks::{blocks_in, bytes_of};
use crate::{Bytes, DEFAULT_BYTES_PER_TOKEN, MILLISECOND, Micros, ModelId, SECOND, Tokens};

/// Prompt tokens per second before anything is learned: a 7B model on an A10. Only ratios between pods, and
/// between a pod and the constants in seconds, depend on it.
pub const DEFAULT_RATE: f32 = 5_500.0;

/// Work below which a first-token time tells more of the batch step than of the rate.
const MIN_SAMPLE_TOKENS: Tokens = Tokens(1_000);
/// Two first tokens closer than this came from the same batch step.
const MIN_SAMPLE_TIME: Micros = Micros(5 * MILLISECOND.0);
/// Largest step towards a new sample, as a share of the rate, once there are many samples.
const RATE_GAIN: f32 = 0.05;
/// Samples from which on a pod's own rate counts.
pub const RELIABLE_SAMPLES: u16 = 4;
/// For each sample that a rate was learned from, a pod that is slow by it is sent nothing for so long before
/// it is tried again: few samples may all have come from a bad moment. Much sooner, the tries cost a fleet of
/// unequal pods more than they find.
const TRIED_AFTER_SECONDS: u32 = 30;
/// Samples beyond which a rate is not trusted for longer.
const TRUSTED_SAMPLES: u16 = 10;
/// Rates that differ by at most this share count as equal: what is learned is noisy, and noise must not
/// unbalance a fleet of equal pods, nor show that a slow pod is fast.
pub const EQUAL_RATES: f32 = 0.35;
/// Rates outside are errors of measurement, in prompt tokens per second.
const PLAUSIBLE_RATES: std::ops::RangeInclusive<f32> = 50.0..=5_000_000.0;
/// Tokens of the prompt that vLLM may compute again although it holds them: its last block, and Warmpath's
/// last block.
const SLACK_TOKENS: Tokens = Tokens(32);
/// A match that is off by less than this part of it is no error. The answer's ratio of bytes to tokens is
/// that of the whole prompt, and plain words have more bytes per token than the code or the numbers after
/// them. With a smaller tolerance, such prompts make a pod look as if it had lost all that it held, and
/// conversations are sent elsewhere.
const MISS_TOLERANCE: u64 = 3;
/// Shorter prompts teach no bytes per token: they are mostly the template.
const MIN_RATIO_TOKENS: Tokens = Tokens(16);
/// Bytes per token outside belong to an embedding, an image or an error.
const PLAUSIBLE_RATIOS: std::ops::RangeInclusive<f32> = 0.25..=32.0;
/// Weight of an answer in a model's mean of bytes per token.
const RATIO_GAIN: f32 = 0.1;
/// Prompts in the mean of work; before there are as many, it is the plain mean.
const MEAN_WORK_PROMPTS: u64 = 100;

/// Learns a pod's prefill rate: a prompt of which `tokens` were to be computed took `elapsed`, counted from
/// the first token before it, or from its own start on a pod that computed nothing else.
///
/// A match that was not there makes a pod look slow, prompts that are computed together make it look fast.
/// The rate is therefore the median of the samples, approached in small steps.
///
/// A pod that looks slow gets few prompts, so it is tried now and then ([`may_be_faster`]). If it is faster
/// then, half of the samples are forgotten, and all of them where few are left.
pub fn learn_rate(account: &mut PodAccount, tokens: Tokens, elapsed: Micros) {
    let sample = tokens.as_f32() / elapsed.as_seconds();
    if !teaches_rate(tokens) || elapsed < MIN_SAMPLE_TIME || !PLAUSIBLE_RATES.contains(&sample) {
        return;
    }
    if std::mem::take(&mut account.on_trial) && sample - account.rate > EQUAL_RATES * account.rate {
        let left = account.samples.min(TRUSTED_SAMPLES) / 2;
        account.samples = if left < RELIABLE_SAMPLES { 0 } else { left };
    }
    // Not `clamp`, which panics where the bounds are no numbers.
    let step = RATE_GAIN.max(1.0 / (f32::from(account.samples) + 2.0)) * account.rate;
    account.rate = if account.samples == 0 {
        sample
    } else {
        account.rate + (sample - account.rate).max(-step).min(step)
    };
    account.samples = account.samples.saturating_add(1);
}

/// Whether the time to the first token of a prompt tells a pod's rate, where so many tokens are to be
/// computed.
pub fn teaches_rate(tokens: Tokens) -> bool {
    tokens >= MIN_SAMPLE_TOKENS
}

/// A prompt is sent of which so many tokens are to be computed.
pub fn note_sent(account: &mut PodAccount, tokens: Tokens, now: Micros) {
    if teaches_rate(tokens) {
        account.on_trial |= may_be_faster(account, now);
        account.tried_at = in_seconds(now);
    }
}

/// Whether a pod that is slow by its rate is to be sent a prompt as if none were faster, to see whether it
/// still is slow: while others can take all prompts, it gets none, and nothing else would show.
pub fn may_be_faster(account: &PodAccount, now: Micros) -> bool {
    let trusted_for = u32::from(account.samples.clamp(1, TRUSTED_SAMPLES)) * TRIED_AFTER_SECONDS;
    in_seconds(now).saturating_sub(account.tried_at) >= trusted_for
}

fn in_seconds(time: Micros) -> u32 {
    (time.0 / SECOND.0) as u32
}

/// Whether the pod held clearly less of a prompt than the `matched` leading blocks that were believed.
///
/// `bytes` is the length of the prompt in canonical bytes; the answer's own token count turns tokens into
/// bytes.
pub fn missed(usage: &Usage, bytes: Bytes, matched: usize) -> bool {
    let Some(cached) = usage.cached_tokens else { return false };
    let tokens = u64::from(usage.prompt_tokens.0);
    if tokens == 0 || matched == 0 {
        return false;
    }
    let held = blocks_in(Bytes(bytes.0 * u64::from((cached + SLACK_TOKENS).0) / tokens));
    let missing = bytes_of(matched) - bytes_of(held);
    missing.0 > bytes_of(matched).0 / MISS_TOLERANCE
}

impl Ledger {
    /// Learns the mean work of a prompt, which stands for the work of requests that another gateway sent.
    pub fn learn_mean_work(&mut self, tokens: Tokens) {
        let prompts = self.prompts().wrapping_add(1);
        let weight = 1.0 / (prompts.min(MEAN_WORK_PROMPTS) as f32);
        let mean = self.mean_work() * (1.0 - weight) + tokens.as_f32() * weight;
        self.set_mean_work(prompts, mean);
    }

    /// Canonical bytes per token of a model, learned or the default.
    pub fn bytes_per_token(&self, model: ModelId) -> f32 {
        self.models()
            .find(|&(name, ratio)| name == model && ratio > 0.0)
            .map_or(DEFAULT_BYTES_PER_TOKEN, |(_, ratio)| ratio)
    }

    /// Learns from an answer that a prompt of `bytes` canonical bytes had `tokens` tokens.
    pub fn learn_bytes_per_token(&mut self, model: ModelId, bytes: Bytes, tokens: Tokens) {
        let ratio = bytes.as_f32() / tokens.max(Tokens(1)).as_f32();
        if tokens < MIN_RATIO_TOKENS || !PLAUSIBLE_RATIOS.contains(&ratio) {
            return;
        }
        let known = (0..).zip(self.models()).find(|&(_, (name, ratio))| name == model && ratio > 0.0);
        let (nth, learned) = match known {
            Some((nth, (_, before))) => (nth, before + (ratio - before) * RATIO_GAIN),
            // The last place has the least recently learned model, or is empty.
            None => (MODELS - 1, ratio),
        };
        self.put_model_first(nth, model, learned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_median_of_its_samples() {
        let mut account = PodAccount::default();
        learn_rate(&mut account, Tokens(2_000), SECOND);
        assert_eq!(account.rate, 2_000.0);
        learn_rate(&mut account, Tokens(10), SECOND);
        learn_rate(&mut account, Tokens(2_000), Micros::ZERO);
        assert_eq!((account.rate, account.samples), (2_000.0, 1));
        for n in 0..400 {
            // One in four is far off, either way.
            let tokens = [9_000, 9_000, 90_000, 9_000, 9_000, 1_000, 9_000, 9_000][n % 8];
            learn_rate(&mut account, Tokens(tokens), SECOND);
        }
        assert!((account.rate - 9_000.0).abs() < 500.0, "{}", account.rate);
    }

    #[test]
    fn only_a_clear_miss_counts() {
        let reported = |prompt: u32, cached: Option<u32>| Usage {
            prompt_tokens: Tokens(prompt),
            cached_tokens: cached.map(Tokens),
        };
        let usage = |cached| reported(1000, cached);
        assert!(!missed(&usage(None), Bytes(4096), 64));
        assert!(!missed(&usage(Some(990)), Bytes(4096), 64));
        assert!(!missed(&usage(Some(900)), Bytes(4096), 64));
        assert!(missed(&usage(Some(0)), Bytes(4096), 64));
        assert!(missed(&usage(Some(500)), Bytes(4096), 64));
        // A prefix of 900 bytes and 200 tokens, in a prompt of 3.6 bytes per token.
        let uneven = reported(2_500, Some(192));
        assert!(!missed(&uneven, Bytes(9_000), blocks_in(Bytes(900))));
        assert!(!missed(&usage(Some(500)), Bytes(4096), 20), "more than believed is no error");
        assert!(!missed(&reported(0, Some(0)), Bytes(4096), 64));
    }

    #[test]
    fn mean_work_is_the_plain_mean_at_first_and_follows_later() {
        let mut ledger = Ledger::default();
        for tokens in [100, 200, 600] {
            ledger.learn_mean_work(Tokens(tokens));
        }
        assert!((ledger.mean_work() - 300.0).abs() < 0.01);
        (0..1000).for_each(|_| ledger.learn_mean_work(Tokens(50)));
        assert!((ledger.mean_work() - 50.0).abs() < 1.0, "{}", ledger.mean_work());
    }

    #[test]
    fn bytes_per_token_are_learned_for_each_model() {
        let [one, two] = [1, 2].map(ModelId);
        let mut ledger = Ledger::default();
        assert_eq!(ledger.bytes_per_token(one), 4.0);
        ledger.learn_bytes_per_token(one, Bytes(3000), Tokens(1000));
        ledger.learn_bytes_per_token(two, Bytes(1500), Tokens(1000));
        assert_eq!((ledger.bytes_per_token(one), ledger.bytes_per_token(two)), (3.0, 1.5));
        ledger.learn_bytes_per_token(one, Bytes(10), Tokens(15));
        ledger.learn_bytes_per_token(one, Bytes(1_000_000), Tokens(100));
        assert_eq!(ledger.bytes_per_token(one), 3.0);
        for model in 0..100 {
            ledger.learn_bytes_per_token(ModelId(model), Bytes(2000), Tokens(1000));
        }
        assert_eq!(ledger.bytes_per_token(ModelId(99)), 2.0);
    }

    #[test]
    fn the_least_recently_learned_model_makes_room() {
        let mut ledger = Ledger::default();
        for model in 0..MODELS as u32 + 4 {
            ledger.learn_bytes_per_token(ModelId(model), Bytes(2000), Tokens(1000));
            // One that is always in use, whatever else comes.
            ledger.learn_bytes_per_token(ModelId(1000), Bytes(3000), Tokens(1000));
        }
        let kept: Vec<bool> = (0..20).map(|model| ledger.bytes_per_token(ModelId(model)) == 2.0).collect();
        assert_eq!(kept, [vec![false; 5], vec![true; 15]].concat());
        assert_eq!(ledger.bytes_per_token(ModelId(1000)), 3.0);
    }
}

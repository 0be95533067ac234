//! What answers teach: each model's bytes per token, the mean work of a prompt, and where the index was
//! wrong.

use crate::account::ledger::{Ledger, MODELS};
use crate::answer::usage::Usage;
use crate::request::blocks::{blocks_in, bytes_of};
use crate::{Bytes, DEFAULT_BYTES_PER_TOKEN, ModelId, Tokens};

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

//! What an answer teaches: each pod's prefill rate, each model's bytes a token, and where the index was wrong.

use crate::account::ledger::PodAccount;
use crate::answer::usage::Usage;
use crate::request::blocks::{blocks_in, bytes_of};
use crate::{MILLISECOND, Micros};

/// Work below which a first-token time says more of the step than of the rate.
const MIN_SAMPLE_TOKENS: u32 = 1_000;
/// Two first tokens closer than this came from the same step.
const MIN_SAMPLE_TIME: Micros = 5 * MILLISECOND;
/// Largest step towards a new sample, as a share of the rate, once there are some twenty.
const GAIN: f32 = 0.05;
/// Rates outside are errors of measurement, in prompt tokens a second.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = 50.0..=5_000_000.0;
/// Tokens of the prompt that vLLM may compute again though it holds them: the last block, and our own last block.
const SLACK_TOKENS: u32 = 32;
/// Less than this part of a match off is no error. The answer's own ratio of bytes to tokens is that of the whole prompt, and
/// a system prompt in plain words has 4.5 bytes a token where the code or the numbers after it have 3.5. At an eighth, such
/// prompts made a pod look as if it had lost all it held, and conversations were sent elsewhere: their hits fell from 91 % to
/// 80 %, and the mean time to first token rose by two thirds.
const UNEVEN: u64 = 3;

/// Learns a pod's prefill rate: a prompt of which `work` tokens were to be computed took `elapsed`, counted from the first
/// token before it, or from its own start on a pod that computed nothing else.
///
/// A match that was not there makes a pod look slow, prompts that are computed together make it look fast: so the rate is
/// the median of what is seen, approached in small steps.
pub fn learn_rate(entry: &mut PodAccount, work: u32, elapsed: Micros) {
    let sample = work as f32 / (elapsed as f32 / 1e6);
    if work < MIN_SAMPLE_TOKENS || elapsed < MIN_SAMPLE_TIME || !PLAUSIBLE.contains(&sample) {
        return;
    }
    // From a third down to a twentieth.
    let step = GAIN.max(1.0 / (entry.samples as f32 + 2.0)) * entry.rate;
    entry.rate =
        if entry.samples == 0 { sample } else { entry.rate + (sample - entry.rate).clamp(-step, step) };
    entry.samples = entry.samples.saturating_add(1);
}

/// Whether the pod held clearly less of a prompt than the `matched` leading blocks that were believed.
///
/// `bytes` is the length of the prompt in canonical bytes; the answer's own token count turns tokens into bytes.
pub fn missed(usage: &Usage, bytes: u64, matched: usize) -> bool {
    let Some(cached) = usage.cached_tokens else { return false };
    let tokens = u64::from(usage.prompt_tokens);
    if tokens == 0 || matched == 0 {
        return false;
    }
    let held = blocks_in(bytes * u64::from(cached.saturating_add(SLACK_TOKENS)) / tokens);
    let wrong = bytes_of(matched).saturating_sub(bytes_of(held));
    wrong > bytes_of(matched) / UNEVEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::account::ledger::Ledger;

    fn entry() -> PodAccount {
        Ledger::default().entry(0)
    }

    #[test]
    fn rates_are_the_median_of_what_was_seen() {
        let mut entry = entry();
        learn_rate(&mut entry, 2_000, SECOND);
        assert_eq!(entry.rate, 2_000.0);
        learn_rate(&mut entry, 10, SECOND);
        learn_rate(&mut entry, 2_000, 0);
        assert_eq!((entry.rate, entry.samples), (2_000.0, 1));
        for n in 0..400 {
            // One in four is far off, either way.
            learn_rate(&mut entry, [9_000, 9_000, 90_000, 9_000, 9_000, 1_000, 9_000, 9_000][n % 8], SECOND);
        }
        assert!((entry.rate - 9_000.0).abs() < 500.0, "{}", entry.rate);
    }

    #[test]
    fn only_a_clear_miss_counts() {
        let usage = |cached| Usage { prompt_tokens: 1000, cached_tokens: cached };
        assert!(!missed(&usage(None), 4096, 64));
        assert!(!missed(&usage(Some(990)), 4096, 64));
        assert!(!missed(&usage(Some(900)), 4096, 64));
        assert!(missed(&usage(Some(0)), 4096, 64));
        assert!(missed(&usage(Some(500)), 4096, 64));
        // A prefix of 900 bytes and 200 tokens, in a prompt of 3.6 bytes a token.
        let uneven = Usage { prompt_tokens: 2_500, cached_tokens: Some(192) };
        assert!(!missed(&uneven, 9_000, blocks_in(900)));
        assert!(!missed(&usage(Some(500)), 4096, 20), "more than believed is no error");
        assert!(!missed(&Usage { prompt_tokens: 0, cached_tokens: Some(0) }, 4096, 64));
    }
}

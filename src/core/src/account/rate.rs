//! How fast each pod computes prompts, learned from its first tokens.

use crate::account::pod_account::PodAccount;
use crate::{MILLISECOND, Micros, SECOND, Tokens};

/// Prompt tokens per second before anything is learned: a 7B model on an A10. Only ratios between pods, and
/// between a pod and the constants in seconds, depend on it.
pub const DEFAULT_RATE: f32 = 5_500.0;

/// Prompt tokens below which a first-token time tells more of the batch step than of the rate.
const MIN_SAMPLE_TOKENS: Tokens = Tokens(300);
/// The same for a prompt that others wait beside: they may be computed in the same batch steps, and take most
/// of them where the prompt is short.
const MIN_SAMPLE_TOKENS_AMONG_OTHERS: Tokens = Tokens(1_000);
/// Prompt tokens that a pod could compute in the time that a batch step takes whatever is in it: reading the
/// weights once. GPUs of all sizes have about the same ratio of arithmetic to memory bandwidth, so it is
/// about the same number on each.
const STEP_TOKENS: Tokens = Tokens(150);
/// Two first tokens closer than this came from the same batch step.
const MIN_SAMPLE_TIME: Micros = Micros(5 * MILLISECOND.0);
/// Largest step towards a new sample, as a share of the rate, once there are many samples.
const RATE_GAIN: f32 = 0.05;
/// Tokens that a pod had to compute are far from what was believed where one is so many times the other.
/// With less, the ends of prompts that fill no block count, too.
const FAR_OFF: u32 = 4;
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

/// How long a pod took to compute a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefill {
    /// From the first token before it, or from its own start on a pod that computed nothing else.
    took: Micros,
    /// Whether no other request waited for its first token then.
    alone: bool,
}

impl Prefill {
    /// Of a request that was sent at `sent_at` and whose first token comes now, before that is booked.
    pub fn ends(account: &PodAccount, sent_at: Micros, now: Micros) -> Prefill {
        Prefill { took: now.since(account.since.max(sent_at)), alone: account.waiting <= 1 }
    }

    /// The pod's rate in tokens per second, where it computed so many tokens; `None` where that does not
    /// show.
    fn rate(self, tokens: Tokens) -> Option<f32> {
        let least = if self.alone { MIN_SAMPLE_TOKENS } else { MIN_SAMPLE_TOKENS_AMONG_OTHERS };
        let rate = (tokens + STEP_TOKENS).as_f32() / self.took.as_seconds();
        let shows = tokens >= least && self.took >= MIN_SAMPLE_TIME && PLAUSIBLE_RATES.contains(&rate);
        shows.then_some(rate)
    }
}

/// Learns a pod's prefill rate from a prompt whose first token has come, of which it had to compute `tokens`,
/// as is believed.
///
/// A match that was not there makes a pod look slow, and prompts that are computed together make it look
/// fast. The rate is therefore the median of the samples, approached in small steps.
///
/// A pod that looks slow gets few prompts, so it is tried now and then ([`may_be_faster`]). If it is faster
/// then, half of the samples are forgotten, and all of them where few are left.
pub fn learn(account: &mut PodAccount, tokens: Tokens, prefill: Prefill) {
    let Some(sample) = prefill.rate(tokens) else { return };
    if std::mem::take(&mut account.on_trial) && sample - account.rate > EQUAL_RATES * account.rate {
        let left = account.samples.min(TRUSTED_SAMPLES) / 2;
        account.samples = if left < RELIABLE_SAMPLES { 0 } else { left };
    }
    account.rate =
        if account.samples == 0 { sample } else { account.rate + step_towards(sample, tokens, account) };
    account.samples = account.samples.saturating_add(1);
}

/// Learns from the answer's report that the pod had to compute `computed` tokens of a prompt, and not those
/// that [`learn`] was told: it had more in its cache than was believed, as all pods have when a gateway
/// starts, or less. What was learned then is taken back. A report that is near to the belief changes nothing,
/// so that rates are known at the first tokens and not at the ends of answers, which may take minutes.
pub fn correct(account: &mut PodAccount, believed: Tokens, computed: Tokens, prefill: Prefill) {
    if computed < FAR_OFF * believed && believed < FAR_OFF * computed {
        return;
    }
    if let Some(sample) = prefill.rate(believed) {
        account.samples = account.samples.saturating_sub(1);
        account.rate -= step_towards(sample, believed, account);
    }
    learn(account, computed, prefill);
}

/// How far a sample from a prompt of `tokens` moves the rate: what is short moves it less, as much of its
/// time is not that of the prompt.
fn step_towards(sample: f32, tokens: Tokens, account: &PodAccount) -> f32 {
    let weight = (tokens.as_f32() / MIN_SAMPLE_TOKENS_AMONG_OTHERS.as_f32()).min(1.0);
    let most = weight * RATE_GAIN.max(1.0 / (f32::from(account.samples) + 2.0)) * account.rate;
    // Not `clamp`, which panics where the bounds are no numbers.
    (sample - account.rate).max(-most).min(most)
}

/// Whether the time to the first token of a prompt can tell a pod's rate, where so many tokens are to be
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Prefill = Prefill { took: SECOND, alone: true };

    #[test]
    fn a_rate_is_the_median_of_its_samples() {
        let mut account = PodAccount::default();
        learn(&mut account, Tokens(1_850), ALONE);
        assert_eq!(account.rate, 2_000.0);
        learn(&mut account, Tokens(10), ALONE);
        learn(&mut account, Tokens(2_000), Prefill { took: Micros::ZERO, ..ALONE });
        assert_eq!((account.rate, account.samples), (2_000.0, 1));
        for n in 0..400 {
            // One in four is far off, either way.
            let tokens = [9_000, 9_000, 90_000, 9_000, 9_000, 1_000, 9_000, 9_000][n % 8];
            learn(&mut account, Tokens(tokens), ALONE);
        }
        assert!((account.rate - 9_000.0).abs() < 500.0, "{}", account.rate);
    }

    #[test]
    fn prompts_of_a_few_hundred_tokens_teach_a_rate_where_none_waits_beside_them() {
        let after = |tokens, prefill| {
            let mut account = PodAccount::default();
            learn(&mut account, Tokens(tokens), prefill);
            account.samples
        };
        let beside = Prefill { alone: false, ..ALONE };
        assert_eq!(
            [after(299, ALONE), after(300, ALONE), after(999, beside), after(1_000, beside)],
            [0, 1, 0, 1]
        );
    }

    #[test]
    fn what_came_from_the_cache_is_taken_back() {
        let mut account = PodAccount::default();
        let cached = Prefill { took: 30 * MILLISECOND, alone: true };
        // Two are under way at once, so that the second one is learned before the first is taken back.
        (0..2).for_each(|_| learn(&mut account, Tokens(2_000), cached));
        (0..2).for_each(|_| correct(&mut account, Tokens(2_000), Tokens(16), cached));
        assert_eq!(account.samples, 0);
        (0..9).for_each(|_| learn(&mut account, Tokens(850), ALONE));
        let known = account;
        learn(&mut account, Tokens(2_000), cached);
        assert!(account.rate > known.rate);
        correct(&mut account, Tokens(2_000), Tokens(16), cached);
        assert!((account.rate / known.rate - 1.0).abs() < 0.01, "{} {}", account.rate, known.rate);
        assert_eq!(account.samples, known.samples);
        correct(&mut account, Tokens(850), Tokens(800), ALONE);
        assert_eq!(account.samples, known.samples, "as was believed");
        // It was believed to have a prompt that it has lost: only the report teaches.
        correct(&mut account, Tokens(20), Tokens(2_000), ALONE);
        assert_eq!(account.samples, known.samples + 1);
        assert!(account.rate > known.rate);
    }

    #[test]
    fn short_and_long_prompts_teach_one_rate() {
        // A step of 28 ms, and 5,500 tokens per second beside it.
        let sample = |tokens: u32| {
            let took = Micros((28e3 + f64::from(tokens) / 5_500.0 * 1e6) as u64);
            Prefill { took, alone: true }.rate(Tokens(tokens)).unwrap()
        };
        for tokens in [400, 800, 2_000, 8_000] {
            assert!((sample(tokens) / 5_500.0 - 1.0).abs() < 0.05, "{tokens}: {}", sample(tokens));
        }
    }
}

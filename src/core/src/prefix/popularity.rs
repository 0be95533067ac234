//! How large a share of recent prompts starts with a prefix.
//!
//! Recent means two things. Over a long window a share is known well, and late: a burst of one prompt is over
//! before it shows. Over a short window it is known soon, and badly. The larger of the two shares counts,
//! each after a deduction for chance.

/// About how many prompts back the long window looks: a prompt counts less with each one after it.
const LONG_WINDOW: f32 = 200.0;
/// Prompts of a prefix that are no evidence over the long window: the first one says nothing about others.
const DOUBT: f32 = 1.0;
/// How much farther the long window looks than the short one. Decays of the short window are the twelfth
/// power of those of the long one.
const WINDOWS_RATIO: f32 = 12.0;

/// Prompts that went through a node, older ones counting less.
///
/// A prompt that goes on where the last one ended is the same conversation, and does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Popularity {
    /// Over the long window.
    long: f32,
    /// Over the short window.
    short: f32,
    /// The index clock at which both were right.
    counted_at: u32,
}

impl Popularity {
    /// No prompt so far.
    pub fn none_at(clock: u32) -> Popularity {
        Popularity { counted_at: clock, ..Popularity::default() }
    }

    /// A prompt goes through the node at `clock`.
    pub fn count(&mut self, clock: u32) {
        let Popularity { long, short, .. } = self.at(clock);
        *self = Popularity { long: long + 1.0, short: short + 1.0, counted_at: clock };
    }

    fn at(self, clock: u32) -> Popularity {
        let decay = (-(clock.wrapping_sub(self.counted_at) as f32) / LONG_WINDOW).exp();
        Popularity { long: self.long * decay, short: self.short * twelfth_power(decay), counted_at: clock }
    }

    /// Share of all recent prompts, 0 to 1.
    pub fn share_at(self, clock: u32) -> f32 {
        let Popularity { long, short, .. } = self.at(clock);
        let prompts = clock.max(1) as f32;
        let over_long = (long - DOUBT).max(0.0) / (LONG_WINDOW.min(prompts) + DOUBT);
        // A count of so few that come by chance is off by its root.
        let over_short = (short - short.sqrt()).max(0.0) / (LONG_WINDOW / WINDOWS_RATIO).min(prompts);
        over_long.max(over_short)
    }
}

fn twelfth_power(number: f32) -> f32 {
    let square = number * number;
    let fourth = square * square;
    fourth * fourth * fourth
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Too simple to be wrong: every prompt that went through the node, by the clock.
    fn naive_share(counted: &[u32], clock: u32) -> f64 {
        let within =
            |window: f64| -> f64 { counted.iter().map(|&at| (-f64::from(clock - at) / window).exp()).sum() };
        let prompts = f64::from(clock.max(1));
        let (long, short) = (200.0, 200.0 / 12.0);
        let over_long = (within(long) - 1.0) / (prompts.min(long) + 1.0);
        let over_short = (within(short) - within(short).sqrt()) / prompts.min(short);
        over_long.max(over_short).max(0.0)
    }

    proptest! {
        #[test]
        fn agrees_with_its_naive_twin(
            through in prop::collection::vec(prop::bool::weighted(0.3), 0..400), after in 0u32..300,
        ) {
            let mut popularity = Popularity::none_at(0);
            let mut counted = Vec::new();
            for (clock, _) in (1..).zip(&through).filter(|(_, through)| **through) {
                popularity.count(clock);
                counted.push(clock);
            }
            let clock = through.len() as u32 + after;
            let (share, naive) = (f64::from(popularity.share_at(clock)), naive_share(&counted, clock));
            prop_assert!((share - naive).abs() < 1e-3, "{share} against {naive}");
            prop_assert!((0.0..=1.0).contains(&share));
        }
    }

    /// The share of a prefix that has `every`th prompt, after `all` others.
    fn share_of_every(nth: u32, all: u32) -> f32 {
        let mut popularity = Popularity::none_at(0);
        (1..=all).filter(|clock| clock % nth == 0).for_each(|clock| popularity.count(clock));
        popularity.share_at(all)
    }

    #[test]
    fn a_steady_share_is_that_share() {
        for nth in [2, 5, 20] {
            let (share, true_share) = (share_of_every(nth, 4_000), 1.0 / nth as f32);
            assert!((0.85 * true_share..=1.05 * true_share).contains(&share), "{share} of {true_share}");
        }
    }

    #[test]
    fn a_burst_shows_at_once_and_is_forgotten_soon() {
        let mut popularity = Popularity::none_at(1_000);
        let mut seen = |number: u32| {
            popularity.count(1_000 + number);
            popularity.share_at(1_000 + number)
        };
        let shares: Vec<f32> = (1..=64).map(&mut seen).collect();
        assert_eq!(shares[0], 0.0, "the first one says nothing");
        assert!(shares[4] > 0.125 && shares[12] > 0.375 && shares[29] > 0.625, "{shares:?}");
        assert!(popularity.share_at(1_100) < 0.25);
    }
}

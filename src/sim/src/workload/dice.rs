//! Chance with a seed: the distributions that workloads and policies draw from.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// A seeded source of chance. The same seed gives the same draws on every machine.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// The stream number `stream` of `seed`: streams share nothing.
    pub fn new(seed: u64, stream: u64) -> Dice {
        Dice(StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stream)))
    }

    /// A name that nothing else has.
    pub fn name(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// From 0 to below `n`; 0 of nothing.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.random_range(0..n) }
    }

    /// Evenly from `least` to `most`, both included.
    pub fn between(&mut self, least: u32, most: u32) -> u32 {
        if least >= most { least } else { self.0.random_range(least..=most) }
    }

    /// From `least` to `most`, evenly on a logarithmic scale: many short ones, few long ones.
    pub fn skewed(&mut self, least: u32, most: u32) -> u32 {
        let (low, high) = (f64::from(least.max(1)).ln(), f64::from(most.max(1)).ln());
        (low + (high - low) * self.unit()).exp().round() as u32
    }

    /// Exponential with this mean: the time to the next of things that happen by chance.
    pub fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// Ranks by Zipf's law: the `n`-th is drawn in proportion to `1 / n^exponent`.
#[derive(Clone, Debug)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Over ranks 0 to below `n`.
    pub fn new(n: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        Zipf(
            (1..=n)
                .map(|rank| {
                    sum += (rank as f64).powf(-exponent);
                    sum
                })
                .collect(),
        )
    }

    /// Draws a rank.
    pub fn draw(&self, dice: &mut Dice) -> usize {
        let at = dice.unit() * self.0.last().copied().unwrap_or_default();
        self.0.partition_point(|&sum| sum <= at).min(self.0.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_where_they_should_be() {
        let mut dice = Dice::new(1, 1);
        let mean = (0..10_000).map(|_| dice.wait(2.0)).sum::<f64>() / 10_000.0;
        assert!((mean - 2.0).abs() < 0.1, "{mean}");
        assert!((0..1000).all(|_| (10..=1000).contains(&dice.skewed(10, 1000))));
        let zipf = Zipf::new(60, 1.0);
        let firsts = (0..10_000).filter(|_| zipf.draw(&mut dice) == 0).count();
        assert!((1900..2400).contains(&firsts), "1 / H(60) is 0.21: {firsts}");
    }

    #[test]
    fn seeds_and_streams_tell_apart() {
        let draw = |seed, stream| Dice::new(seed, stream).name();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(2, 2), draw(1, 2));
    }
}

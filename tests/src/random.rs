//! Chance from a seed, the same for all tests and for the soak.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// Draws from a seed. The same seed gives the same draws.
#[derive(Debug)]
pub struct Random(SmallRng);

impl Random {
    /// The draws of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// The seed of this run: `WARMPATH_SEED`, to repeat a run, or another one each time. Print it, so that a
    /// failure can be repeated.
    ///
    /// # Panics
    /// When `WARMPATH_SEED` is not a whole number.
    pub fn seed_of_this_run() -> u64 {
        match std::env::var("WARMPATH_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| {
                panic!("WARMPATH_SEED is {text:?}; set it to a whole number, or unset it")
            }),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from `least` to below `end`, which must be larger.
    pub fn within(&mut self, least: u64, end: u64) -> u64 {
        self.0.random_range(least..end)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.within(0, end) }
    }

    /// True once in `times`.
    pub fn chance(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Fewer than `most` bytes.
    pub fn bytes(&mut self, most: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most) as usize];
        self.0.fill(&mut bytes[..]);
        bytes
    }

    /// Text of so many words, six bytes each. It shares no block with the text of another seed.
    pub fn text(seed: u64, words: usize) -> String {
        let mut random = Self::new(seed);
        (0..words).map(|_| format!("{:05x} ", random.number() >> 44)).collect()
    }
}

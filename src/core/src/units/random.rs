//! Chance, from a seed that the caller gives: the same seed, the same numbers.

/// xorshift64 (Marsaglia, 2003). Enough to spread work and to make test inputs; nothing that has to be
/// secret.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; every two seeds that differ in more than the lowest bit have different numbers.
    pub fn new(seed: u64) -> Random {
        // Zero would stay zero.
        Random(seed | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_the_same_numbers_and_another_gives_others() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            std::array::from_fn::<u64, 100, _>(|_| random.next_u64())
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(9));
        assert!(numbers(0).iter().all(|&number| number != 0));
    }

    #[test]
    fn numbers_below_an_end_are_spread_over_all_of_it() {
        let mut random = Random::new(3);
        let mut counts = [0; 10];
        for _ in 0..10_000 {
            counts[random.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
    }
}

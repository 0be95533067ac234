//! How often a number was how large: counts per bucket, as Prometheus wants them.

/// Most buckets of a histogram, the last one without a bound included.
pub const MOST_BUCKETS: usize = 16;

/// The buckets of a histogram.
#[derive(Clone, Copy, Debug)]
pub struct Buckets {
    /// Largest number of each bucket, and how Prometheus reads it. Fewer than [`MOST_BUCKETS`], from the
    /// least to the greatest.
    pub bounds: &'static [(u64, &'static str)],
    /// Numbers that are 1 to Prometheus: 1, or 1,000,000 where microseconds are recorded and seconds are
    /// read.
    pub unit: u64,
}

/// Times to first token, recorded in microseconds.
pub const FIRST_TOKEN: Buckets = Buckets {
    bounds: &[
        (10_000, "0.01"),
        (25_000, "0.025"),
        (50_000, "0.05"),
        (100_000, "0.1"),
        (250_000, "0.25"),
        (500_000, "0.5"),
        (1_000_000, "1"),
        (2_500_000, "2.5"),
        (5_000_000, "5"),
        (10_000_000, "10"),
        (30_000_000, "30"),
        (60_000_000, "60"),
    ],
    unit: 1_000_000,
};

/// Times of decisions, recorded in microseconds.
pub const DECISION: Buckets = Buckets {
    bounds: &[
        (10, "1e-05"),
        (25, "2.5e-05"),
        (50, "5e-05"),
        (100, "0.0001"),
        (250, "0.00025"),
        (500, "0.0005"),
        (1_000, "0.001"),
        (2_500, "0.0025"),
        (10_000, "0.01"),
    ],
    unit: 1_000_000,
};

/// Numbers of prompt tokens.
pub const TOKENS: Buckets = Buckets {
    bounds: &[
        (0, "0"),
        (64, "64"),
        (256, "256"),
        (1_024, "1024"),
        (2_048, "2048"),
        (4_096, "4096"),
        (8_192, "8192"),
        (16_384, "16384"),
        (32_768, "32768"),
        (65_536, "65536"),
        (131_072, "131072"),
    ],
    unit: 1,
};

/// What was observed since the last [`take`](Histogram::take).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u32; MOST_BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Counts a number.
    pub fn observe(&mut self, buckets: Buckets, number: u64) {
        let bucket = buckets.bounds.partition_point(|&(bound, _)| bound < number);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.sum = self.sum.saturating_add(number);
    }

    /// Hands out what was observed, and begins anew: for each bucket how many numbers were no larger than its
    /// bound, the last one being all of them; and their sum. `None` when nothing was observed.
    pub fn take(&mut self, buckets: Buckets) -> Option<(Vec<u64>, u64)> {
        let Histogram { counts, sum } = std::mem::take(self);
        let mut no_larger = 0;
        let cumulative: Vec<u64> = counts
            .iter()
            .take(buckets.bounds.len() + 1)
            .map(|&count| {
                no_larger += u64::from(count);
                no_larger
            })
            .collect();
        (no_larger > 0).then_some((cumulative, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_last_bucket_has_all() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.take(TOKENS), None);
        for number in [0, 1, 64, 65, 131_072, 131_073, u64::MAX] {
            histogram.observe(TOKENS, number);
        }
        let (counts, sum) = histogram.take(TOKENS).unwrap();
        assert_eq!(counts, [1, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 7]);
        assert_eq!(sum, u64::MAX, "it stops there");
        assert_eq!(histogram.take(TOKENS), None, "it begins anew");
    }

    #[test]
    fn bounds_rise_and_read_as_the_numbers_that_they_are() {
        for buckets in [FIRST_TOKEN, DECISION, TOKENS] {
            assert!(buckets.bounds.len() < MOST_BUCKETS);
            assert!(buckets.bounds.is_sorted_by(|a, b| a.0 < b.0));
            for (bound, text) in buckets.bounds {
                let read: f64 = text.parse().unwrap();
                assert!((read * buckets.unit as f64 - *bound as f64).abs() < 1e-6, "{text} is not {bound}");
            }
        }
    }
}

//! A Prometheus histogram with the bounds of the recorded page.

/// Counts of values up to each bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// Upper bounds, ascending; the last is infinite.
    bounds: Vec<f64>,
    /// Values in each bucket alone, not cumulated.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Adds the next bound.
    pub(super) fn add_bound(&mut self, bound: f64) {
        self.bounds.push(bound);
        self.counts.push(0);
    }

    /// The number of the bucket with this bound.
    pub(super) fn bucket_of(&self, bound: f64) -> usize {
        self.bounds.iter().position(|&other| other == bound).unwrap_or(self.bounds.len())
    }

    pub(super) fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
            self.sum += value;
        }
    }

    /// Values up to the bound of `bucket`.
    pub(super) fn up_to(&self, bucket: usize) -> u64 {
        self.counts.iter().take(bucket + 1).sum()
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_includes_its_value() {
        let mut histogram = Histogram::default();
        [1.0, 2.0, f64::INFINITY].into_iter().for_each(|bound| histogram.add_bound(bound));
        [0.5, 1.0, 1.5, 99.0].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!([0, 1, 2].map(|bucket| histogram.up_to(bucket)), [2, 3, 4]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 102.0));
    }
}

//! Means and percentiles, as numpy has them: what the reference's tools compute with.

/// The mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The value that `percent` of all are below, interpolated between neighbours; 0 of nothing. `sorted` is
/// ascending.
pub(super) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = (sorted.len().saturating_sub(1)) as f64 * percent / 100.0;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let (below, above) = (at(place.floor() as usize), at(place.ceil() as usize));
    below + (above - below) * place.fract()
}

/// Standard deviation over mean: 0 is even, `sqrt(n - 1)` is all on one of n. `None` when all are 0.
pub(super) fn variation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    if mean <= 0.0 {
        return None;
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Some(variance.sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([1, 2, 3, 4], [0, 50, 99, 100])
        let values = [1.0, 2.0, 3.0, 4.0];
        let found = [0.0, 50.0, 99.0, 100.0].map(|percent| percentile(&values, percent));
        assert_eq!(found, [1.0, 2.5, 3.97, 4.0]);
        assert_eq!((percentile(&[], 50.0), percentile(&[7.0], 99.0), mean(&[])), (0.0, 7.0, 0.0));
    }

    #[test]
    fn variation_is_the_spread_over_the_mean() {
        assert_eq!(variation(&[0.5, 0.5, 0.5]), Some(0.0));
        assert!((variation(&[1.0, 0.0, 0.0, 0.0, 0.0]).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(variation(&[0.0, 0.0]), None);
    }
}

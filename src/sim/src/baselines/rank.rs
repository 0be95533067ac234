//! Candidates in the order of a score.

use crate::workload::Dice;

/// Candidates by score, best first, equals by chance: what `max-score-picker` does (shuffle, stable sort).
pub fn by_score(candidates: &[usize], dice: &mut Dice, score: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut pods = ranked(candidates, dice, score);
    pods.truncate(warmpath::decide::pick::PICKS);
    pods
}

/// All candidates by score, best first, equals by chance.
pub fn ranked(candidates: &[usize], dice: &mut Dice, score: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut scored: Vec<(f64, u64, usize)> =
        candidates.iter().map(|&pod| (score(pod), dice.name(), pod)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, _, pod)| pod).collect()
}

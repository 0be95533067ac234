//! The judgement: is ours as good as the best baseline everywhere, and clearly better than each of them
//! somewhere?

use std::fmt;

use super::cases::{CaseSummary, over_seeds};
use super::row::ResultRow;

/// How much longer than the best the mean may be: as a share, or in seconds.
const MEAN: (f64, f64) = (0.05, 0.010);
/// The same of the 99th percentile.
const P99: (f64, f64) = (0.10, 0.050);
/// By how much the mean must be less than a baseline's somewhere.
const BETTER: f64 = 0.20;
/// The policy that must not answer more than ours where pods refuse.
const PLAIN: &str = "least-request";
/// The policy that is judged.
const OURS: &str = "warmpath";

/// A time of ours next to the best baseline's.
#[derive(Clone, Debug, PartialEq)]
struct Against {
    ours: f64,
    best: f64,
    /// Whose it is.
    rival: String,
    passes: bool,
}

impl Against {
    fn new(ours: f64, (rival, best): (String, f64), (share, seconds): (f64, f64)) -> Against {
        // NaN, from a run that answered nobody, never passes.
        Against { ours, best, rival, passes: ours <= (best * (1.0 + share)).max(best + seconds) }
    }
}

/// One workload on one fleet.
#[derive(Clone, Debug)]
struct Verdict {
    title: String,
    mean: Against,
    p99: Against,
    /// Where pods refused: how many requests ours answered, and how many plain balancing.
    answered: Option<(usize, usize)>,
}

impl Verdict {
    fn passes(&self) -> bool {
        let answers = self.answered.is_none_or(|(ours, plain)| ours >= plain);
        self.mean.passes && self.p99.passes && answers
    }
}

/// Where ours beats a baseline most.
#[derive(Clone, Debug)]
struct Win {
    rival: String,
    /// How much less the mean is, as a share of the baseline's.
    less: f64,
    title: String,
}

/// All verdicts.
#[derive(Clone, Debug)]
pub struct Check {
    verdicts: Vec<Verdict>,
    wins: Vec<Win>,
}

impl Check {
    /// How many of the conditions do not hold.
    pub fn misses(&self) -> usize {
        let cases = self.verdicts.iter().filter(|verdict| !verdict.passes()).count();
        // Nothing to judge is no pass.
        cases
            + self.wins.iter().filter(|win| win.less < BETTER).count()
            + usize::from(self.verdicts.is_empty())
    }
}

/// Judges `warmpath` against the baselines, the oracle aside.
pub fn check(entries: &[ResultRow]) -> Check {
    let mut check = Check { verdicts: Vec::new(), wins: Vec::new() };
    for CaseSummary { title, policies, .. } in over_seeds(entries) {
        let find = |name: &str| policies.iter().find(|entry| entry.policy == name);
        let Some(ours) = find(OURS) else { continue };
        let refuses = policies.iter().any(|entry| entry.summary.refused > 0);
        let answered =
            find(PLAIN).filter(|_| refuses).map(|plain| (ours.summary.answered, plain.summary.answered));
        let against = |of: fn(&ResultRow) -> f64, allowed| {
            // Who has refused more is not faster for it.
            let fair = |entry: &&ResultRow| !refuses || entry.summary.answered >= ours.summary.answered;
            let rivals = policies.iter().filter(|entry| entry.is_rival() && !of(entry).is_nan()).filter(fair);
            let ours = of(ours);
            let Some(best) = rivals.min_by(|a, b| of(a).total_cmp(&of(b))) else {
                let alone = policies.iter().any(ResultRow::is_rival);
                return alone.then(|| Against::new(ours, ("answers fewer".to_owned(), ours), allowed));
            };
            Some(Against::new(ours, (best.policy.clone(), of(best)), allowed))
        };
        let (Some(mean), Some(p99)) =
            (against(|e| e.summary.ttft.mean, MEAN), against(|e| e.summary.ttft.p99, P99))
        else {
            continue;
        };
        // Where pods refuse, times of different requests would be compared.
        for entry in policies.iter().filter(|entry| entry.is_rival() && !refuses) {
            let less = 1.0 - mean.ours / entry.summary.ttft.mean;
            let win = Win { less, title: title.clone(), rival: entry.policy.clone() };
            match check.wins.iter_mut().find(|w| w.rival == win.rival) {
                Some(known) if known.less >= win.less => {}
                Some(known) => *known = win,
                None => check.wins.push(win),
            }
        }
        check.verdicts.push(Verdict { title, mean, p99, answered });
    }
    check
}

fn word(passes: bool) -> &'static str {
    if passes { "pass" } else { "MISS" }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.verdicts.iter().map(|v| v.title.len()).max().unwrap_or(0);
        writeln!(
            f,
            "{:wide$}  {:>9}{:>9}{:>8}  {:<15}{:>9}{:>9}{:>8}",
            "TTFT in seconds", "mean", "best", "", "of", "p99", "best", ""
        )?;
        for v in &self.verdicts {
            write!(f, "{:wide$}", v.title)?;
            write!(
                f,
                "  {:>9.3}{:>9.3}{:>+7.1}%  {:<15}",
                v.mean.ours,
                v.mean.best,
                percent(&v.mean),
                v.mean.rival
            )?;
            write!(
                f,
                "{:>9.3}{:>9.3}{:>+7.1}%  {:<15}",
                v.p99.ours,
                v.p99.best,
                percent(&v.p99),
                v.p99.rival
            )?;
            write!(f, "{}", word(v.passes()))?;
            if let Some((ours, plain)) = v.answered {
                write!(f, "  answered {ours}, {PLAIN} {plain}")?;
            }
            writeln!(f)?;
        }
        for win in &self.wins {
            let (percent, verdict) = (win.less * 100.0, word(win.less >= BETTER));
            writeln!(f, "{verdict}: mean {percent:.0} % less than {} at best, in {}", win.rival, win.title)?;
        }
        writeln!(
            f,
            "{} of {} cases pass",
            self.verdicts.iter().filter(|verdict| verdict.passes()).count(),
            self.verdicts.len()
        )
    }
}

fn percent(against: &Against) -> f64 {
    (against.ours / against.best - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::entry;
    use super::*;
    use crate::fleet::{FleetRun, summarize};

    #[test]
    fn a_case_passes_near_the_best_and_a_rival_is_beaten_somewhere() {
        let mut all = vec![
            entry("warmpath", "a", 1, 1.04),
            entry("gie", "a", 1, 1.0),
            entry("random", "a", 1, 2.0),
            entry("oracle", "a", 1, 0.1),
            entry("warmpath", "b", 1, 0.109),
            entry("gie", "b", 1, 0.2),
        ];
        assert_eq!(check(&all).misses(), 0, "{}", check(&all));
        all.push(entry("dynamo", "b", 1, 0.1));
        assert_eq!(check(&all).misses(), 1, "dynamo is beaten nowhere: {}", check(&all));
        all.push(entry("sglang", "a", 1, 0.9));
        assert_eq!(check(&all).misses(), 3, "{}", check(&all));
        assert_eq!(check(&[]).misses(), 1);
    }

    #[test]
    fn where_pods_refuse_ours_must_answer_as_many_as_plain_balancing() {
        let with = |policy: &str, answered, refused, ttft| {
            let mut row = entry(policy, "a", 1, ttft);
            (row.summary.answered, row.summary.refused) = (answered, refused);
            row
        };
        let rows = |ours| {
            [
                with("warmpath", ours, 10, 2.0),
                with("least-request", 90, 10, 1.0),
                entry("random", "b", 1, 9.0),
            ]
        };
        let judged = |ours| check(&rows(ours));
        assert!(judged(91).verdicts[0].passes(), "plain balancing is faster for having answered fewer");
        assert!(!judged(89).verdicts[0].passes());
        assert!(judged(91).to_string().contains("answered 91, least-request 90"));
    }

    #[test]
    fn seeds_count_as_their_mean_and_nothing_answered_is_no_pass() {
        let seeds = [
            entry("warmpath", "a", 1, 1.2),
            entry("gie", "a", 1, 1.0),
            entry("warmpath", "a", 2, 1.0),
            entry("gie", "a", 2, 1.2),
            entry("random", "a", 1, 9.0),
        ];
        assert_eq!(check(&seeds).verdicts.len(), 1);
        assert!(check(&seeds).verdicts[0].mean.passes);
        let mut none = entry("warmpath", "a", 1, 1.0);
        none.summary = summarize(&FleetRun::default());
        assert!(!check(&[none, entry("gie", "a", 1, 1.0)]).verdicts[0].mean.passes);
    }
}

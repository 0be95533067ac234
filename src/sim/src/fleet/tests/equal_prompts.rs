//! Bursts of equal prompts, after other traffic and beside it.

use super::{SEEDS, Setup, Share, simulate_otherwise, traffic};
use crate::fleet::FleetRun;
use crate::workload::{self, EQUAL_PROMPT_TOKENS, EQUAL_PROMPTS, Traffic};

/// Seconds to the first token of the bursts of a run: the mean, and the last one of each burst.
#[derive(Clone, Copy, Debug, Default)]
struct Bursts {
    mean: f64,
    last: f64,
}

impl Bursts {
    /// Of the cold bursts, and of the warm ones: they take turns.
    fn of(run: &FleetRun) -> [Bursts; 2] {
        let equal = run.records.iter().filter(|record| record.prompt_tokens >= EQUAL_PROMPT_TOKENS);
        let times: Vec<f64> = equal.map(|record| record.ttft().unwrap()).collect();
        let bursts = times.chunks_exact(EQUAL_PROMPTS);
        [0, 1].map(|temperature| {
            mean(bursts.clone().skip(temperature).step_by(2).map(|burst| Bursts {
                mean: burst.iter().sum::<f64>() / burst.len() as f64,
                last: burst.iter().copied().fold(0.0, f64::max),
            }))
        })
    }
}

fn mean(bursts: impl ExactSizeIterator<Item = Bursts>) -> Bursts {
    let count = bursts.len() as f64;
    bursts.fold(Bursts::default(), |sum, one| Bursts {
        mean: sum.mean + one.mean / count,
        last: sum.last + one.last / count,
    })
}

#[test]
fn a_burst_of_equal_prompts_is_answered_as_soon_as_by_least_request() {
    for pods in [3, 4, 8] {
        let [ours, theirs] = ["warmpath", "least-request"].map(|policy| {
            let runs: Vec<[Bursts; 2]> = (0..SEEDS)
                .map(|seed| {
                    let traffic = Traffic { seed, ..traffic(pods, 1_512) };
                    let workload = workload::find("equal-prompts").unwrap().build(&traffic);
                    let two_workers = |setup: &mut Setup<'_>| setup.workers = 2;
                    Bursts::of(&simulate_otherwise(policy, &workload, pods, Share::All, two_workers))
                })
                .collect();
            [0, 1].map(|temperature| mean(runs.iter().map(|run| run[temperature])))
        });
        for (temperature, (ours, theirs)) in ["cold", "warm"].iter().zip(ours.iter().zip(theirs)) {
            println!("{pods} pods, {temperature}: {ours:.3?}; least request {theirs:.3?}");
            assert!(ours.mean <= 1.1 * theirs.mean && ours.last <= 1.1 * theirs.last, "{pods} {temperature}");
        }
    }
}

//! Policies by their names on the command line: ours, ours with other constants, and the baselines.

use anyhow::bail;

use super::tuning::{Sweep, Tuning};
use super::warmpath::unshared::Unshared;
use super::warmpath::{Share, Warmpath, WarmpathOptions};
use crate::baselines::{self, Place};
use crate::policy::{FleetPod, Policy};

/// A policy that takes part.
#[derive(Clone, Debug)]
pub struct Contender {
    /// What reports call it.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Ours { strategy: &'static str, tuning: Tuning },
    Baseline(&'static baselines::Baseline),
}

/// What the policies of ours do.
const OURS: [(&str, &str); 2] = [
    ("warmpath", "ours: the code that runs in Envoy, with the strategy PREFIX_CACHE"),
    ("warmpath-load-only", "ours with the strategy LOAD_ONLY, which knows nothing of prefixes; not in `all`"),
];

impl Contender {
    /// Every policy by name, with a line for people: ours first.
    pub fn described() -> impl Iterator<Item = (&'static str, &'static str)> {
        OURS.into_iter().chain(baselines::ALL.iter().map(|baseline| (baseline.name, baseline.about)))
    }

    /// The policies by name, in the order of reports; `all` is ours and every baseline.
    ///
    /// # Errors
    /// A name that is none, with those there are.
    pub fn parse(names: &[String], sweeps: &[Sweep]) -> anyhow::Result<Vec<Contender>> {
        let ours = |name: &str, strategy| Contender {
            name: name.to_owned(),
            kind: Kind::Ours { strategy, tuning: Tuning::default() },
        };
        let mut all = vec![ours("warmpath", "PREFIX_CACHE")];
        all.extend(
            baselines::ALL
                .iter()
                .map(|baseline| Contender { name: baseline.name.to_owned(), kind: Kind::Baseline(baseline) }),
        );
        // Another strategy of ours, which only those who ask for it get.
        let load = ours("warmpath-load-only", "LOAD_ONLY");
        let mut contenders = Vec::new();
        for name in names {
            match all.iter().chain([&load]).find(|contender| contender.name == *name) {
                Some(contender) => contenders.push(contender.clone()),
                None if name == "all" => contenders.extend(all.iter().cloned()),
                None => {
                    let names: Vec<&str> = all.iter().map(|contender| contender.name.as_str()).collect();
                    bail!(
                        "no policy is called {name:?}; there are {}, warmpath-load-only and all",
                        names.join(", ")
                    )
                }
            }
        }
        for sweep in sweeps {
            for (name, tuning) in &sweep.runs {
                contenders.push(Contender {
                    name: name.clone(),
                    kind: Kind::Ours { strategy: "PREFIX_CACHE", tuning: *tuning },
                });
            }
        }
        Ok(contenders)
    }

    /// The policy of one gateway.
    ///
    /// # Errors
    /// Pods that our configuration refuses.
    pub fn make<'a>(
        &self,
        pods: &[FleetPod],
        workers: usize,
        seed: u64,
        gateway: usize,
        reports_cached: bool,
        share: Share,
    ) -> anyhow::Result<Box<dyn Policy + 'a>> {
        Ok(match &self.kind {
            Kind::Baseline(baseline) => baseline.make(&Place { pods, workers, seed, gateway }),
            Kind::Ours { strategy, tuning } => {
                let tuning = *tuning;
                let options = WarmpathOptions { strategy, workers, share, reports_cached, tuning };
                let seed = seed.wrapping_add(gateway as u64);
                match share {
                    Share::None => Box::new(Unshared::new(&options, pods, seed)?),
                    Share::All | Share::Ledger => Box::new(Warmpath::new(&options, pods, seed)?),
                }
            }
        })
    }
}

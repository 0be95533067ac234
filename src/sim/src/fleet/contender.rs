//! Policies by their names on the command line: ours, ours with other constants, and the baselines.

use std::str::FromStr;

use anyhow::bail;
use warmpath::decide::cost::CostConstants;

use super::warmpath::{Share, Unshared, Warmpath, WarmpathOptions};
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
            for &(tuning, value) in &sweep.values {
                contenders.push(Contender {
                    name: format!("{}={value}", sweep.name),
                    kind: Kind::Ours { strategy: "PREFIX_CACHE", tuning },
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

/// What a sweep may change of ours.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Constants of the cost.
    pub constants: CostConstants,
    /// Milliseconds between two scrapes of a pod; also without traffic, if that is longer.
    pub scrape_ms: f32,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { constants: CostConstants::default(), scrape_ms: 100.0 }
    }
}

/// Other values of one of our constants.
#[derive(Clone, Debug)]
pub struct Sweep {
    name: String,
    values: Vec<(Tuning, f32)>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        // All but the last are the same in every run.
        let (fixed, swept) = text.rsplit_once('/').unwrap_or(("", text));
        let mut base = Tuning::default();
        for part in fixed.split('/').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or("write it as backlog_weight=2/own_work_weight=0,0.5")?;
            set(&mut base, name, value)?;
        }
        let (name, values) = swept.split_once('=').ok_or("write it as own_work_weight=0,0.5,2")?;
        let values = values
            .split(',')
            .map(|value| {
                let mut tuning = base;
                let value = set(&mut tuning, name, value)?;
                Ok((tuning, value))
            })
            .collect::<Result<_, String>>()?;
        let name = text.rsplit_once('=').map_or(name, |(names, _)| names);
        Ok(Sweep { name: name.to_owned(), values })
    }
}

/// A constant's name and its place.
type Constant = (&'static str, fn(&mut Tuning) -> &mut f32);

/// All constants of the cost, and the interval of the scrapes.
const CONSTANTS: [Constant; 15] = [
    ("own_work_weight", |t| &mut t.constants.own_work_weight),
    ("backlog_weight", |t| &mut t.constants.backlog_weight),
    ("local_queue_share", |t| &mut t.constants.local_queue_share),
    ("per_inflight_tokens", |t| &mut t.constants.per_inflight_tokens),
    ("eviction_weight", |t| &mut t.constants.eviction_weight),
    ("kv_occupancy_tokens", |t| &mut t.constants.kv_occupancy_tokens),
    ("no_room_tokens", |t| &mut t.constants.no_room_tokens),
    ("kv_wait_tokens", |t| &mut t.constants.kv_wait_tokens),
    ("popular_discount", |t| &mut t.constants.popular_discount),
    ("expected_answer_tokens", |t| &mut t.constants.expected_answer_tokens),
    ("first_token_lag_tokens", |t| &mut t.constants.first_token_lag_tokens),
    ("believed_capacity", |t| &mut t.constants.believed_capacity),
    ("tie_band", |t| &mut t.constants.tie_band),
    ("adapter_load_seconds", |t| &mut t.constants.adapter_load_seconds),
    ("scrape_ms", |t| &mut t.scrape_ms),
];

impl Sweep {
    /// Every constant and its value.
    pub fn constants() -> impl Iterator<Item = (&'static str, f32)> {
        CONSTANTS.iter().map(|(name, place)| (*name, *place(&mut Tuning::default())))
    }
}

fn set(tuning: &mut Tuning, name: &str, value: &str) -> Result<f32, String> {
    let Some((_, place)) = CONSTANTS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = CONSTANTS.iter().map(|(name, _)| *name).collect();
        return Err(format!("{name:?} is no constant; use one of {}", names.join(", ")));
    };
    let place = place(tuning);
    *place = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok(*place)
}

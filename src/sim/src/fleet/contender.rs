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
    Ours { strategy: &'static str, constants: CostConstants },
    Baseline(&'static baselines::Baseline),
}

impl Contender {
    /// The policies by name, in the order of reports; `all` is ours and every baseline.
    ///
    /// # Errors
    /// A name that is none, with those there are.
    pub fn parse(names: &[String], sweeps: &[Sweep]) -> anyhow::Result<Vec<Contender>> {
        let ours = |name: &str, strategy| Contender {
            name: name.to_owned(),
            kind: Kind::Ours { strategy, constants: CostConstants::default() },
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
            for &(constants, value) in &sweep.values {
                contenders.push(Contender {
                    name: format!("{}={value}", sweep.name),
                    kind: Kind::Ours { strategy: "PREFIX_CACHE", constants },
                });
            }
        }
        Ok(contenders)
    }

    /// The mind of one gateway.
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
            Kind::Ours { strategy, constants } => {
                let constants = *constants;
                let options = WarmpathOptions { strategy, workers, share, reports_cached, constants };
                let seed = seed.wrapping_add(gateway as u64);
                match share {
                    Share::None => Box::new(Unshared::new(&options, pods, seed)?),
                    Share::All | Share::Ledger => Box::new(Warmpath::new(&options, pods, seed)?),
                }
            }
        })
    }
}

/// Other values of one of our constants.
#[derive(Clone, Debug)]
pub struct Sweep {
    name: String,
    values: Vec<(CostConstants, f32)>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        // All but the last are the same in every run.
        let (fixed, swept) = text.rsplit_once('/').unwrap_or(("", text));
        let mut base = CostConstants::default();
        for part in fixed.split('/').filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('=').ok_or("write it as backlog_weight=2/own_work_weight=0,0.5")?;
            set(&mut base, name, value)?;
        }
        let (name, values) = swept.split_once('=').ok_or("write it as own_work_weight=0,0.5,2")?;
        let values = values
            .split(',')
            .map(|value| {
                let mut constants = base;
                let value = set(&mut constants, name, value)?;
                Ok((constants, value))
            })
            .collect::<Result<_, String>>()?;
        let name = text.rsplit_once('=').map_or(name, |(names, _)| names);
        Ok(Sweep { name: name.to_owned(), values })
    }
}

fn set(constants: &mut CostConstants, name: &str, value: &str) -> Result<f32, String> {
    let place = match name {
        "own_work_weight" => &mut constants.own_work_weight,
        "backlog_weight" => &mut constants.backlog_weight,
        "local_queue_share" => &mut constants.local_queue_share,
        "per_inflight_tokens" => &mut constants.per_inflight_tokens,
        "eviction_weight" => &mut constants.eviction_weight,
        "kv_occupancy_tokens" => &mut constants.kv_occupancy_tokens,
        "first_token_lag_tokens" => &mut constants.first_token_lag_tokens,
        "believed_capacity" => &mut constants.believed_capacity,
        "no_room_tokens" => &mut constants.no_room_tokens,
        "kv_wait_tokens" => &mut constants.kv_wait_tokens,
        "popular_discount" => &mut constants.popular_discount,
        "expected_answer_tokens" => &mut constants.expected_answer_tokens,
        "tie_band" => &mut constants.tie_band,
        _ => {
            return Err(format!(
                "{name:?} is no constant; use own_work_weight, backlog_weight, local_queue_share, per_inflight_tokens, eviction_weight, kv_occupancy_tokens, no_room_tokens, kv_wait_tokens, popular_discount, expected_answer_tokens, first_token_lag_tokens, believed_capacity or tie_band"
            ));
        }
    };
    *place = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok(*place)
}

//! Policies by their names on the command line: ours, ours with other constants, and the baselines.

use std::str::FromStr;

use anyhow::bail;
use warmpath::decide::cost::Constants;

use super::{Options, Pod, Policy, Warmpath};
use crate::baselines::{self, Place};

/// A policy that takes part.
#[derive(Clone, Debug)]
pub struct Contender {
    /// What reports call it.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Ours { strategy: &'static str, constants: Constants },
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
            kind: Kind::Ours { strategy, constants: Constants::default() },
        };
        let mut all = vec![ours("warmpath", "PREFIX_CACHE")];
        all.extend(
            baselines::ALL
                .iter()
                .map(|baseline| Contender { name: baseline.name.to_owned(), kind: Kind::Baseline(baseline) }),
        );
        // Another strategy of ours, which only those who ask for it get.
        let load = ours("warmpath-default", "DEFAULT");
        let mut contenders = Vec::new();
        for name in names {
            match all.iter().chain([&load]).find(|contender| contender.name == *name) {
                Some(contender) => contenders.push(contender.clone()),
                None if name == "all" => contenders.extend(all.iter().cloned()),
                None => {
                    let names: Vec<&str> = all.iter().map(|contender| contender.name.as_str()).collect();
                    bail!(
                        "no policy is called {name:?}; there are {}, warmpath-default and all",
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
        pods: &[Pod],
        workers: usize,
        seed: u64,
        gateway: usize,
        reports_cached: bool,
    ) -> anyhow::Result<Box<dyn Policy + 'a>> {
        Ok(match &self.kind {
            Kind::Baseline(baseline) => baseline.make(&Place { pods, workers, seed, gateway }),
            Kind::Ours { strategy, constants } => {
                let options = Options { strategy, workers, reports_cached, constants: *constants };
                Box::new(Warmpath::new(&options, pods, seed.wrapping_add(gateway as u64))?)
            }
        })
    }
}

/// Other values of one of our constants.
#[derive(Clone, Debug)]
pub struct Sweep {
    name: String,
    values: Vec<(Constants, f32)>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        // All but the last are the same in every run.
        let (fixed, swept) = text.rsplit_once('/').unwrap_or(("", text));
        let mut base = Constants::default();
        for part in fixed.split('/').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or("write it as backlog=2/alpha=0,0.5")?;
            set(&mut base, name, value)?;
        }
        let (name, values) = swept.split_once('=').ok_or("write it as alpha=0,0.5,2")?;
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

fn set(constants: &mut Constants, name: &str, value: &str) -> Result<f32, String> {
    let place = match name {
        "alpha" => &mut constants.alpha,
        "backlog" => &mut constants.backlog,
        "here" => &mut constants.here,
        "delta" => &mut constants.delta,
        "epsilon" => &mut constants.epsilon,
        "usage" => &mut constants.usage,
        "lag" => &mut constants.lag,
        "held" => &mut constants.held,
        "pressure" => &mut constants.pressure,
        "turnover" => &mut constants.turnover,
        "hot" => &mut constants.hot,
        "answer" => &mut constants.answer,
        "tie" => &mut constants.tie,
        _ => {
            return Err(format!(
                "{name:?} is no constant; use alpha, backlog, here, delta, epsilon, usage, pressure, turnover, hot, answer, lag, held or tie"
            ));
        }
    };
    *place = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok(*place)
}

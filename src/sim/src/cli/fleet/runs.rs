//! From flags to a list of runs, and from these to their results.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::args::FleetArgs;
use crate::cli::wrong_flag::WrongFlag;
use crate::engine::{EngineConfig, Hardware};
use crate::fleet::contender::Contender;
use crate::fleet::{Setup, run, summarize};
use crate::report::{Progress, ResultRow};
use crate::workload::{self, Traffic, Workload, trace};

/// One run to do.
pub(super) struct PlannedRun<'a> {
    pub(super) case: &'a FleetCase,
    pub(super) workers: usize,
    pub(super) contender: &'a Contender,
}

/// A workload on a fleet, which several contenders run.
pub(super) struct FleetCase {
    pub(super) name: String,
    pub(super) profile: String,
    pub(super) seed: u64,
    pub(super) pods: Vec<EngineConfig>,
    pub(super) workload: Workload,
}

impl FleetArgs {
    /// The cases, in the order of the flags.
    pub(super) fn cases(&self) -> anyhow::Result<Vec<FleetCase>> {
        let mut cases = Vec::new();
        let all = self.workload.iter().any(|name| name == "all");
        let names: Vec<&str> = match all {
            true => workload::ALL.iter().map(|spec| spec.name).collect(),
            false => self.workload.iter().map(String::as_str).collect(),
        };
        let profiles: Vec<&str> = match self.profile.iter().any(|name| name == "all") {
            true => vec!["a10", "h100", "mixed"],
            false => self.profile.iter().map(String::as_str).collect(),
        };
        for name in names {
            for &profile in &profiles {
                for seed in (self.seed..).take(self.seeds as usize) {
                    cases.push(self.case(name, profile, seed)?);
                }
            }
        }
        Ok(cases)
    }

    fn case(&self, name: &str, profile: &str, seed: u64) -> anyhow::Result<FleetCase> {
        let hardware = Hardware::from_str(profile, false).map_err(anyhow::Error::msg).context("--profile")?;
        let (pods, workload) = if name == "trace" {
            let no_trace = || WrongFlag(workload::WorkloadError::NoTrace.to_string());
            let path = self.trace.as_ref().ok_or_else(no_trace)?;
            (hardware.pods(self.pods.unwrap_or(4)), trace::load(&path.to_string_lossy())?)
        } else {
            let spec = workload::find(name).context("--workload")?;
            let pods = hardware.pods(self.pods.unwrap_or(spec.pods));
            let traffic = Traffic {
                pods: pods.clone(),
                requests: self.requests.unwrap_or(spec.requests),
                rate: self.rate,
                seed,
            };
            let workload = spec.build(&traffic);
            (pods, workload)
        };
        self.fits(&pods, &workload)?;
        Ok(FleetCase { name: name.to_owned(), profile: profile.to_owned(), seed, pods, workload })
    }

    /// A request that a pod could never hold would never be answered.
    fn fits(&self, pods: &[EngineConfig], workload: &Workload) -> anyhow::Result<()> {
        let capacity = pods.iter().map(EngineConfig::capacity_tokens).min().unwrap_or(0);
        for (at, session) in (1..).zip(&workload.sessions) {
            let turns = session.turns.iter();
            let tokens: u64 = turns
                .map(|t| u64::from(t.output_tokens) + t.adds.iter().map(|s| u64::from(s.tokens)).sum::<u64>())
                .sum();
            if tokens > u64::from(capacity) {
                bail!("session {at} has {tokens} tokens in the end, and the smallest pod holds {capacity}");
            }
        }
        Ok(())
    }

    /// Does the runs, a few at a time; the results are in the order of the jobs.
    pub(super) fn run_all(&self, jobs: &[PlannedRun<'_>]) -> anyhow::Result<Vec<ResultRow>> {
        let results: Vec<Mutex<Option<anyhow::Result<ResultRow>>>> =
            jobs.iter().map(|_| Mutex::new(None)).collect();
        let requests: u64 = jobs.iter().map(|job| job.case.workload.requests() as u64).sum();
        let progress = Progress::new(requests, std::io::stderr().is_terminal());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((job, place)) = {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        jobs.get(at).zip(results.get(at))
                    } {
                        let result = self.run_one(job, &progress);
                        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    }
                });
            }
        });
        progress.end();
        results
            .into_iter()
            .filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn run_one(&self, job: &PlannedRun<'_>, progress: &Progress) -> anyhow::Result<ResultRow> {
        let case = job.case;
        let setup = Setup {
            pods: &case.pods,
            gateways: self.gateways,
            workers: job.workers,
            seed: case.seed,
            connections: self.connections,
            holds_headers: self.hold_headers,
            workload: &case.workload,
            sample_seconds: 0.25,
        };
        progress.begin(&format!("{} {} {}", case.name, case.profile, job.contender.name));
        let mut done = 0;
        let run = run(
            &setup,
            |gateway, pods| {
                let reports_cached = !self.no_cached_tokens;
                job.contender.make(pods, job.workers, case.seed, gateway, reports_cached, self.share)
            },
            |now_done| {
                progress.advance((now_done - done) as u64);
                done = now_done;
            },
        )?;
        progress.advance((case.workload.requests() - done) as u64);
        Ok(ResultRow {
            policy: job.contender.name.clone(),
            workload: case.name.clone(),
            profile: case.profile.clone(),
            pods: case.pods.len(),
            workers: job.workers,
            gateways: self.gateways,
            seed: case.seed,
            summary: summarize(&run),
            // Only plots need them.
            run: self.html.is_some().then_some(run),
        })
    }
}

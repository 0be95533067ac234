//! `warmpath-sim fleet`: from flags to a list of runs, and from their results to a report.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::engine::{EngineConfig, Hardware};
use crate::fleet::contender::{Contender, Sweep};
use crate::fleet::warmpath::Share;
use crate::fleet::{Connections, Setup, run, summarize};
use crate::report::{self, Progress, ResultRow};
use crate::workload::{self, Traffic, Workload, trace};

/// Flags of `warmpath-sim fleet`.
#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    /// chats, documents, hot-prefix, groups, random, agents, bursts, churn, trace; several with commas, or all
    #[arg(long, default_value = "all", value_delimiter = ',')]
    pub workload: Vec<String>,
    /// warmpath, random, round-robin, least-request, gie, ratio-gate, sglang, dynamo, higress, oracle;
    /// several with commas, or all. Besides, warmpath-load-only: ours with the strategy that knows load only
    #[arg(long, default_value = "all", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Hardware of the pods: a10, h100, mixed (every other pod an H100); several with commas, or all
    #[arg(long, default_value = "a10", value_delimiter = ',')]
    pub profile: Vec<String>,
    /// Pods; each workload has its own number
    #[arg(long)]
    pub pods: Option<usize>,
    /// Worker threads of each gateway; several with commas
    #[arg(long, default_value = "4", value_delimiter = ',')]
    pub workers: Vec<usize>,
    /// What the workers of a gateway of ours share
    #[arg(long, value_enum, default_value_t)]
    pub share: Share,
    /// Gateways, each with a mind of its own
    #[arg(long, default_value_t = 1)]
    pub gateways: usize,
    /// Seed of all chance: the same seed gives the same numbers, to the byte
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// So many seeds, one after another from --seed on
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// Whether a client keeps its connection, and so its worker
    #[arg(long, value_enum, default_value_t)]
    pub connections: Connections,
    /// Judges: in each case, ours must be within 5 % or 10 ms of the best baseline in mean and 10 % or 50 ms in 99th
    /// percentile, and better than each baseline by 20 % somewhere. Several seeds count as their mean. Fails on a miss
    #[arg(long)]
    pub check: bool,
    /// Requests, about; each workload has its own number
    #[arg(long)]
    pub requests: Option<usize>,
    /// Requests a second, mean; each workload has its own share of the fleet's capacity
    #[arg(long)]
    pub rate: Option<f64>,
    /// The trace of the workload `trace`: JSON lines of {"time", "segments": [["name", tokens], ...], "output_tokens"}
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Runs ours with other constants as well: own_work_weight, backlog_weight, local_queue_share, per_inflight_tokens,
    /// eviction_weight, kv_occupancy_tokens, no_room_tokens, kv_wait_tokens, popular_discount, expected_answer_tokens,
    /// first_token_lag_tokens, believed_capacity or tie_band, as in own_work_weight=0,0.5,2
    #[arg(long, value_name = "CONSTANT=VALUES")]
    pub sweep: Vec<Sweep>,
    /// Answers do not report cached_tokens: vLLM without --enable-prompt-tokens-details
    #[arg(long)]
    pub no_cached_tokens: bool,
    /// Prints one JSON array and nothing else. `imbalance` is the standard deviation of KV cache use over pods, by its
    /// mean
    #[arg(long)]
    pub json: bool,
    /// Writes a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Runs at the same time
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
}

/// One run to do.
struct PlannedRun<'a> {
    case: &'a FleetCase,
    workers: usize,
    contender: &'a Contender,
}

/// A workload on a fleet, which several contenders run.
struct FleetCase {
    name: String,
    profile: String,
    seed: u64,
    pods: Vec<EngineConfig>,
    workload: Workload,
}

impl FleetArgs {
    /// Does what the flags say.
    ///
    /// # Errors
    /// A flag, a trace or a file that cannot be used, by its name.
    pub fn run(&self) -> anyhow::Result<()> {
        let entries = self.entries()?;
        if self.json {
            println!("{}", report::json(&entries)?);
        } else {
            print!("{}", report::table(&entries));
        }
        if let Some(path) = &self.html {
            let page = report::html(&entries)?;
            std::fs::write(path, page).with_context(|| format!("--html {}", path.display()))?;
        }
        if self.check {
            let check = report::check(&entries);
            if self.json {
                eprint!("{check}");
            } else {
                print!("{check}");
            }
            if check.misses() > 0 {
                bail!("--check: {} misses", check.misses());
            }
        }
        Ok(())
    }

    /// The results, in the order of the flags.
    ///
    /// # Errors
    /// A flag or a trace that cannot be used, by its name.
    pub fn entries(&self) -> anyhow::Result<Vec<ResultRow>> {
        self.check()?;
        let contenders = Contender::parse(&self.policy, &self.sweep).context("--policy")?;
        let cases = self.cases()?;
        let mut jobs = Vec::new();
        for case in &cases {
            for &workers in &self.workers {
                for contender in &contenders {
                    jobs.push(PlannedRun { case, workers, contender });
                }
            }
        }
        self.run_all(&jobs)
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = |name: &str, value: Option<usize>, most: usize| match value {
            Some(value) if value == 0 || value > most => bail!("--{name} is {value}; use 1 to {most}"),
            _ => Ok(()),
        };
        positive("pods", self.pods, warmpath::shared::pod_table::MAX_PODS)?;
        positive("gateways", Some(self.gateways), 64)?;
        positive("requests", self.requests, 10_000_000)?;
        positive("jobs", Some(self.jobs), 256)?;
        positive("seeds", Some(self.seeds as usize), 1000)?;
        for &workers in &self.workers {
            positive("workers", Some(workers), 64)?;
        }
        match self.rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => {
                bail!("--rate is {rate}; use requests a second, more than 0")
            }
            _ => Ok(()),
        }
    }

    fn cases(&self) -> anyhow::Result<Vec<FleetCase>> {
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
        let Ok(hardware) = Hardware::from_str(profile, false) else {
            bail!("--profile: no hardware is called {profile:?}; use a10, h100, mixed or all");
        };
        let (pods, workload) = if name == "trace" {
            let path = self.trace.as_ref().ok_or(workload::WorkloadError::NoTrace)?;
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
    fn run_all(&self, jobs: &[PlannedRun<'_>]) -> anyhow::Result<Vec<ResultRow>> {
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

//! `warmpath-sim fleet`: what is done with its flags, and with the results.

mod args;
mod conditions;
mod help;
mod runs;

use anyhow::{Context, bail};

pub use self::args::FleetArgs;
use self::conditions::conditions;
use self::runs::PlannedRun;
use crate::fleet::contender::Contender;
use crate::report::{self, ResultRow};
use crate::workload;

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
            let page = report::html(&entries, &conditions())?;
            std::fs::write(path, page).with_context(|| format!("--html {}", path.display()))?;
        }
        if self.check {
            let mut check = report::check(&entries).to_string();
            if let Some(why) = self.too_short_to_judge() {
                check.push_str(&format!("This run judges nothing: {why}.\n"));
            }
            if self.json {
                eprint!("{check}");
            } else {
                print!("{check}");
            }
            let misses = report::check(&entries).misses();
            if misses > 0 && self.too_short_to_judge().is_none() {
                bail!("--check: {misses} of its conditions do not hold");
            }
        }
        Ok(())
    }

    /// Why misses of `--check` would mean nothing, if so.
    fn too_short_to_judge(&self) -> Option<String> {
        let short = |spec: &workload::Spec| self.requests.is_some_and(|requests| requests < spec.requests);
        let names = |name: &str| self.workload.iter().any(|asked| asked == name || asked == "all");
        let spec = workload::ALL.iter().find(|spec| names(spec.name) && short(spec))?;
        let (requests, name) = (spec.requests, spec.name);
        Some(format!(
            "--requests is below the {requests} of {name}, so caches are cold for most of it and the limits, which are \
             made for full runs, do not apply"
        ))
    }

    /// The results, in the order of the flags.
    ///
    /// # Errors
    /// A flag or a trace that cannot be used, by its name.
    pub fn entries(&self) -> anyhow::Result<Vec<ResultRow>> {
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
}

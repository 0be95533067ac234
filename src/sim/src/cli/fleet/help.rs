//! What `warmpath-sim fleet --help` says, and how its values are read.

use clap::ValueEnum;

use crate::engine::Hardware;
use crate::fleet::contender::Contender;
use crate::fleet::tuning::Sweep;
use crate::workload;

/// A whole number from 1 to `most`.
pub(super) fn at_most(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(value) if (1..=most).contains(&value) => Ok(value),
        _ => Err(format!("use a whole number from 1 to {most}")),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("use a number above 0".to_owned()),
    }
}

pub(super) fn workload_name(name: &str) -> Result<String, String> {
    match name {
        "all" | "trace" => Ok(name.to_owned()),
        _ => workload::find(name).map(|_| name.to_owned()).map_err(|error| error.to_string()),
    }
}

pub(super) fn policy_name(name: &str) -> Result<String, String> {
    Contender::parse(&[name.to_owned()], &[]).map(|_| name.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn profile_name(name: &str) -> Result<String, String> {
    match name == "all" || Hardware::from_str(name, false).is_ok() {
        true => Ok(name.to_owned()),
        false => Err("use a10, h100, mixed or all".to_owned()),
    }
}

const EXAMPLES: &str = "\
Examples:
  warmpath-sim fleet --workload chats                        ours and all others on one workload
  warmpath-sim fleet --html fleet.html                       everything, as a page
  warmpath-sim fleet --profile all --workers 1,4 --seeds 3 --check
                                                             the judgement, at its full size
  warmpath-sim fleet --policy warmpath --sweep tie_band=0,0.05,0.2
                                                             what one constant of the cost does
  warmpath-sim fleet --workload trace --trace FILE --pods 6  recorded traffic";

/// A line for each workload and policy.
pub(super) fn short_help() -> String {
    let mut help = "Workloads (pods, requests):\n".to_owned();
    for spec in workload::ALL {
        help.push_str(&format!("  {:<14}{} ({}, {})\n", spec.name, spec.about, spec.pods, spec.requests));
    }
    help.push_str("  trace         the requests of --trace (4)\n\nPolicies:\n");
    for (name, about) in Contender::described() {
        help.push_str(&format!("  {name:<20}{about}\n"));
    }
    help + "\n" + EXAMPLES
}

/// The same with a paragraph for each, and what the numbers mean.
pub(super) fn long_help() -> String {
    let mut help = short_help() + "\n\nWhat each workload asks of a router:\n";
    for spec in workload::ALL {
        help.push_str(&format!("  {}: {}\n", spec.name, spec.explains));
    }
    help.push_str("\nConstants for --sweep, and their values:\n");
    for (name, value) in Sweep::constants() {
        help.push_str(&format!("  {name:<26}{value}\n"));
    }
    help
}

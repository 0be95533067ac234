//! What `warmpath-sim traffic` can be told. Flags that the reference's tools have are called as there.

use std::path::PathBuf;

use anyhow::{bail, ensure};

use super::Named;
use crate::engine::Hardware;
use crate::workload::WorkloadError;

/// The flags of `warmpath-sim traffic`. Defaults are the reference's commands.
#[derive(Clone, Debug, clap::Args)]
// A flag that is given again counts as given last, so that scripts can have defaults.
#[command(
    args_override_self = true,
    after_help = "\
Examples:
  warmpath-sim traffic --url http://127.0.0.1:8080 --workload multi-round-qa            the reference's command, 10 minutes
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload multi-round-qa --speed-up 10   on pods with --speed-up 10
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload random --pods 10.0.0.4:8000,10.0.0.5:8000 --json run.json
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload chats --fleet-pods 3      as much as three A10 pods can do
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload trace --trace FILE        JSON lines, as for `fleet`"
)]
pub struct TrafficOptions {
    /// The gateway or the server: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// What to send
    #[arg(long, value_enum, value_name = "NAME")]
    pub workload: Named,
    /// The model to ask for
    #[arg(long, value_name = "NAME", default_value = "/model/qwen")]
    pub model: String,
    /// Bearer token, if the server wants one
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,

    /// multi-round-qa: users at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub num_users: u32,
    /// multi-round-qa: questions of a user
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub num_rounds: u32,
    /// multi-round-qa: requests per second of all users together
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    pub qps: f64,
    /// multi-round-qa: tokens that all prompts begin with
    #[arg(long, value_name = "TOKENS", default_value_t = 100)]
    pub shared_system_prompt: u32,
    /// multi-round-qa: tokens of context that a user has from the start
    #[arg(long, value_name = "TOKENS", default_value_t = 2000)]
    pub user_history_prompt: u32,
    /// multi-round-qa: tokens of an answer, at most
    #[arg(long, value_name = "TOKENS", default_value_t = 100)]
    pub answer_len: u32,
    /// multi-round-qa: seconds after which no more questions are asked
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    pub time: f64,
    /// multi-round-qa: number of the first user, less one; users of another number have another context
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub init_user_id: u32,
    /// multi-round-qa: lengths of questions and answers vary as in ShareGPT, instead of one question again
    /// and again
    #[arg(long)]
    pub sharegpt: bool,

    /// random: requests in all
    #[arg(long, value_name = "N", default_value_t = 3000)]
    pub num_prompts: u32,
    /// random: requests at a time
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_concurrency: u32,
    /// random: mean tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 1550)]
    pub random_input_len: u32,
    /// random: mean tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 1800)]
    pub random_output_len: u32,
    /// random: lengths are drawn evenly from the mean less and plus this share of it
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub random_range_ratio: f64,
    /// random: tokens that all prompts begin with, on top of the mean
    #[arg(long, value_name = "TOKENS", default_value_t = 10)]
    pub random_prefix_len: u32,
    /// random: answers go on to their full length
    #[arg(long)]
    pub ignore_eos: bool,

    /// chats to tenants: requests in all, about, to which criticality and tenants add their others; each
    /// workload has its own number
    #[arg(long, value_name = "N")]
    pub requests: Option<usize>,
    /// chats to overload: requests per second, mean; by default, each workload's own share of what the pods
    /// can do
    #[arg(long, value_name = "RATE")]
    pub rate: Option<f64>,
    /// chats to tenants: what the pods are, for the rate; by default, a10
    #[arg(long, value_enum, value_name = "NAME")]
    pub profile: Option<Hardware>,
    /// chats to tenants: how many pods there are, for the rate; each workload has its own number
    #[arg(long, value_name = "N")]
    pub fleet_pods: Option<usize>,

    /// criticality: what may be shed, as a multiple of what the pods can do (3 by default); tenants: long
    /// prompts at once (100 by default); 0 leaves the few alone
    #[arg(long, value_name = "N")]
    pub others: Option<f64>,

    /// trace: JSON lines of {"time", "segments": [["name", tokens], ...], "output_tokens"}
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// The server's time runs N times as fast as ours: send as much faster, and report its seconds
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub speed_up: f64,
    /// Other words and lengths
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Pods whose /metrics are read while it runs, for cache usage, queues and hit rate
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub pods: Vec<String>,
    /// Seconds between two readings of a pod's metrics
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub sample_interval: f64,
    /// What to call this run in a comparison; by default, the URL
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Write all that was measured into a file, which `warmpath-sim compare` reads
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl TrafficOptions {
    /// Says which flag cannot be.
    ///
    /// # Errors
    /// One sentence about the first wrong flag.
    pub fn check(&self) -> anyhow::Result<()> {
        self.base()?;
        let positive = |flag: &str, value: f64| -> anyhow::Result<()> {
            ensure!(value.is_finite() && value > 0.0, "--{flag} is {value}; it must be more than 0");
            Ok(())
        };
        positive("speed-up", self.speed_up)?;
        positive("sample-interval", self.sample_interval)?;
        for pod in &self.pods {
            let whole = pod.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            ensure!(whole, "--pods has `{pod}`; write HOST:PORT,HOST:PORT");
        }
        self.check_fleet()?;
        match self.workload {
            Named::MultiRoundQa => {
                positive("num-users", self.num_users.into())?;
                positive("num-rounds", self.num_rounds.into())?;
                positive("qps", self.qps)?;
                positive("answer-len", self.answer_len.into())?;
                positive("time", self.time)
            }
            Named::Random => {
                positive("num-prompts", self.num_prompts.into())?;
                positive("max-concurrency", self.max_concurrency.into())?;
                positive("random-input-len", self.random_input_len.into())?;
                positive("random-output-len", self.random_output_len.into())?;
                let ratio = self.random_range_ratio;
                ensure!(
                    (0.0..1.0).contains(&ratio),
                    "--random-range-ratio is {ratio}; it must be 0 to below 1"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The flags of the fleet's workloads and of traces: none may be given in vain.
    fn check_fleet(&self) -> anyhow::Result<()> {
        let name = self.workload.name();
        for (flag, value, most) in [
            ("requests", self.requests, 10_000_000),
            ("fleet-pods", self.fleet_pods, warmpath::shared::pod_table::MAX_PODS),
        ] {
            ensure!(
                value.is_none_or(|value| (1..=most).contains(&value)),
                "--{flag} is {}; use 1 to {most}",
                value.unwrap_or_default()
            );
        }
        if let Some(rate) = self.rate {
            ensure!(rate.is_finite() && rate > 0.0, "--rate is {rate}; it must be more than 0");
        }
        let has_classes = matches!(self.workload, Named::Criticality | Named::Tenants);
        if let Some(others) = self.others {
            ensure!(has_classes, "--others does nothing with --workload {name}; leave it out");
            ensure!((0.0..=1e6).contains(&others), "--others is {others}; use 0 to 1000000");
        }
        ensure!(
            self.rate.is_none() || !has_classes,
            "--rate does nothing with --workload {name}, whose load is a share of what --fleet-pods can do; leave it out"
        );
        let for_the_rate = [("profile", self.profile.is_some()), ("fleet-pods", self.fleet_pods.is_some())];
        let own = [("requests", self.requests.is_some()), ("rate", self.rate.is_some())];
        let given =
            |flags: &[(&'static str, bool)]| flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
        let load = match self.workload {
            Named::MultiRoundQa => Some("what --num-users, --qps and --time say"),
            Named::Random => Some("what --num-prompts and --max-concurrency say"),
            Named::Trace => Some("what the file says"),
            _ => None,
        };
        if let Some((load, flag)) = load.zip(given(&for_the_rate).or(given(&own))) {
            bail!("--{flag} does nothing with --workload {name}, whose load is {load}; leave it out");
        }
        if let Some(flag) = given(&for_the_rate).filter(|_| self.rate.is_some()) {
            bail!("--{flag} does nothing with --rate, which it is there to find; leave one of them out");
        }
        let is_trace = self.workload == Named::Trace;
        ensure!(self.trace.is_some() || !is_trace, WorkloadError::NoTrace);
        ensure!(
            self.trace.is_none() || is_trace,
            "--trace does nothing with --workload {name}; leave it out, or say --workload trace"
        );
        Ok(())
    }

    /// The URL without a path: `http://host:port`. A trailing `/v1`, which other tools want, is taken off.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn base(&self) -> anyhow::Result<String> {
        let url = self.url.trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url);
        let Ok(parsed) = reqwest::Url::parse(url) else {
            bail!("--url is `{}`, which is no URL; write http://HOST:PORT", self.url);
        };
        ensure!(
            parsed.scheme() == "http",
            "--url is `{}`; only http:// can be measured, write http://HOST:PORT",
            self.url
        );
        ensure!(
            parsed.path() == "/" && parsed.query().is_none(),
            "--url is `{}`; leave the path out, the workload knows it",
            self.url
        );
        Ok(url.to_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    /// A command line of these flags alone.
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: TrafficOptions,
    }

    /// What the command line with these flags means.
    pub(in crate::traffic) fn options(flags: &[&str]) -> TrafficOptions {
        let url: &[&str] = if flags.contains(&"--url") { &[] } else { &["--url", "http://127.0.0.1:1"] };
        let line = [&["traffic"], url, flags].concat();
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).options
    }

    #[test]
    fn the_defaults_are_the_references_commands() {
        let qa = options(&["--workload", "multi-round-qa"]);
        assert_eq!((qa.num_users, qa.num_rounds, qa.qps, qa.time), (8, 15, 0.1, 600.0));
        let lengths = (qa.shared_system_prompt, qa.user_history_prompt, qa.answer_len);
        assert_eq!((lengths, qa.model.as_str()), ((100, 2000, 100), "/model/qwen"));
        assert_eq!((qa.num_prompts, qa.max_concurrency, qa.random_prefix_len), (3000, 200, 10));
        assert_eq!((qa.random_input_len, qa.random_output_len, qa.random_range_ratio), (1550, 1800, 0.2));
        qa.check().unwrap();
    }

    #[test]
    fn the_last_of_two_equal_flags_counts() {
        assert_eq!(
            options(&["--workload", "random", "--num-prompts", "5", "--num-prompts", "7"]).num_prompts,
            7
        );
    }

    #[test]
    fn a_url_may_end_like_those_of_other_tools() {
        for url in ["http://10.0.0.1:8080", "http://10.0.0.1:8080/", "http://10.0.0.1:8080/v1/"] {
            assert_eq!(
                options(&["--workload", "random", "--url", url]).base().unwrap(),
                "http://10.0.0.1:8080"
            );
        }
    }

    #[test]
    fn wrong_flags_are_said_in_a_sentence() {
        for (workload, flags, said) in [
            (
                "random",
                ["--url", "localhost"],
                "--url is `localhost`, which is no URL; write http://HOST:PORT",
            ),
            ("random", ["--url", "https://a"], "only http://"),
            ("random", ["--url", "http://a/x"], "leave the path out"),
            ("random", ["--speed-up", "0"], "--speed-up is 0; it must be more than 0"),
            ("random", ["--pods", "a:1,b"], "--pods has `b`; write HOST:PORT,HOST:PORT"),
            ("random", ["--num-prompts", "0"], "--num-prompts is 0"),
            ("random", ["--random-range-ratio", "1"], "it must be 0 to below 1"),
            ("multi-round-qa", ["--qps", "0"], "--qps is 0"),
            ("multi-round-qa", ["--time", "nan"], "--time is NaN"),
            (
                "multi-round-qa",
                ["--rate", "1"],
                "--rate does nothing with --workload multi-round-qa, whose load is what --num-users, --qps and",
            ),
            (
                "random",
                ["--requests", "9"],
                "whose load is what --num-prompts and --max-concurrency say; leave it out",
            ),
            ("random", ["--trace", "a"], "leave it out, or say --workload trace"),
            ("chats", ["--trace", "a"], "--trace does nothing with --workload chats"),
            ("chats", ["--rate", "0"], "--rate is 0; it must be more than 0"),
            ("chats", ["--requests", "0"], "--requests is 0; use 1 to 10000000"),
            ("chats", ["--fleet-pods", "0"], "--fleet-pods is 0; use 1 to"),
            ("trace", ["--seed", "1"], "the workload `trace` needs --trace FILE"),
            (
                "trace",
                ["--rate", "1"],
                "--rate does nothing with --workload trace, whose load is what the file says; leave",
            ),
        ] {
            let error = options(&[&["--workload", workload][..], &flags].concat()).check().unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_rate_needs_no_pods() {
        let flags = |more: &[&str]| options(&[&["--workload", "groups", "--rate", "2"][..], more].concat());
        flags(&["--requests", "100"]).check().unwrap();
        for (flag, value) in [("--profile", "h100"), ("--fleet-pods", "3")] {
            let error = flags(&[flag, value]).check().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{flag} does nothing with --rate, which it is there to find; leave one of them out")
            );
            options(&["--workload", "groups", flag, value]).check().unwrap();
        }
    }

    #[test]
    fn an_unknown_workload_is_refused_with_the_known_ones() {
        let line = ["traffic", "--url", "http://a", "--workload", "nonsense"];
        let error = Line::try_parse_from(line).unwrap_err().to_string();
        assert!(error.contains("'nonsense'") && error.contains("multi-round-qa, random"), "{error}");
    }
}

//! `warmpath-sim traffic` against a simulated pod: what it counts, and what it says when it cannot.

use std::time::{Duration, Instant};

use harness::{options, pod, run};
use tokio::net::TcpListener;
use warmpath_sim::pod::Faults;
use warmpath_sim::traffic::{TrafficRun, measure};

#[cfg(test)]
mod harness {
    use clap::Parser;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use warmpath_sim::cli::{Cli, Command};
    use warmpath_sim::pod::{Faults, PodConfig, serve};
    use warmpath_sim::traffic::{TrafficOptions, TrafficRun, measure};

    /// How much faster than real time the pods run here.
    const SPEED_UP: f64 = 50.0;

    /// A pod on a free port, and its address.
    pub(super) async fn pod(faults: Faults) -> (JoinHandle<std::io::Result<()>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = PodConfig { speed_up: SPEED_UP, faults, faults_endpoint: true, ..PodConfig::default() };
        (tokio::spawn(serve(listener, config)), address)
    }

    /// `warmpath-sim traffic` with these flags, against a pod whose address is among them as `POD`.
    pub(super) async fn run(faults: Faults, flags: &[&str]) -> anyhow::Result<TrafficRun> {
        let (task, address) = pod(faults).await;
        let url = format!("http://{address}");
        let flags = flags.iter().map(|flag| if *flag == "POD" { &address } else { *flag });
        let flags: Vec<&str> = ["--url", &url].into_iter().chain(flags).collect();
        let record = measure(&options(&flags)).await;
        task.abort();
        record
    }

    pub(super) fn options(flags: &[&str]) -> TrafficOptions {
        let speed_up = SPEED_UP.to_string();
        let line = [&["warmpath-sim", "traffic", "--speed-up", &speed_up], flags].concat();
        match Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Traffic(options) => *options,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn five_seconds_of_users_are_counted() {
    let began = Instant::now();
    // Five seconds of ours, of which the ends are warm-up and the last answers.
    let flags = [
        "--workload",
        "multi-round-qa",
        "--pods",
        "POD",
        "--time",
        "200",
        "--qps",
        "0.3",
        "--answer-len",
        "40",
    ];
    let record = run(Faults::default(), &flags).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // 0.3 a second for 200 s, and the fifteenth more that the original sends.
    // A machine that is busy with other things asks less.
    assert!((40..=70).contains(&record.answered()), "{}", record.answered());
    assert!(record.errors.is_empty(), "{}", record.errors_line());
    for request in &record.requests {
        assert_eq!(request.output_tokens, 40, "{request:?}");
        assert!(request.prompt_tokens > 2100 && request.cached_tokens.is_some(), "{request:?}");
        // A step takes 28 ms at least, and each gives one token.
        assert!(request.ttft > 0.028 && request.latency > 40.0 * 0.028, "{request:?}");
    }
    let later = record.requests.iter().filter(|request| request.cached_tokens > Some(2000)).count();
    assert!(later > record.answered() / 2, "one pod has the history of every user who asks again: {later}");
    assert!(record.hit_rate.unwrap() > 0.5 && record.hit_rate.unwrap() < 1.0);
    // What the pod measures itself is a part of what we see.
    let inside = record.ttft_in_pods.unwrap();
    assert!(inside > 0.028 && inside < record.ttft.mean, "{inside} of {}", record.ttft.mean);
    assert!(
        record.samples.len() > 20
            && record.samples.iter().any(|sample| sample.pods[0].is_some_and(|pod| pod.cache_usage > 0.0))
    );
    let text = record.text();
    assert!(text.starts_with("The server ran 50 times as fast as real time"), "{text}");
    assert!(text.contains("\n  QPS: 0.3000 reqs/s\n") && text.contains("  Average TTFT: "), "{text}");
    let again: TrafficRun = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(again.requests.len(), record.requests.len());
}

#[tokio::test]
async fn so_many_prompts_at_a_time_are_counted() {
    let flags = [
        &["--workload", "random", "--pods", "POD", "--num-prompts", "60", "--max-concurrency", "20"][..],
        &["--random-input-len", "300", "--random-output-len", "50", "--ignore-eos"],
    ];
    let record = run(Faults::default(), &flags.concat()).await.unwrap();
    assert_eq!((record.answered(), record.errors.len()), (60, 0), "{}", record.errors_line());
    for request in &record.requests {
        // A word is a token, or this test has found that the two have parted.
        assert!((240 + 10..=360 + 10).contains(&request.prompt_tokens), "{request:?}");
        assert!((40..=60).contains(&request.output_tokens), "{request:?}");
    }
    let most = record.samples.iter().filter_map(|sample| sample.pods[0]).map(|pod| pod.running + pod.waiting);
    let most = most.fold(0.0, f64::max);
    assert!(most > 5.0 && most <= 20.0, "{most}");
    assert!(
        record.summary[1].starts_with("Successful requests:                     60"),
        "{:?}",
        record.summary
    );
    assert!(record.itl.mean > 0.02 && record.tpot.mean > 0.02, "{:?}", record.itl);
}

#[tokio::test]
async fn conversations_of_the_fleet_are_counted() {
    let began = Instant::now();
    let flags = ["--workload", "chats", "--pods", "POD", "--requests", "40", "--rate", "4"];
    let record = run(Faults::default(), &flags).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((record.answered(), record.errors.len()), (40, 0), "{}", record.errors_line());
    assert!(record.hit_rate.unwrap() > 0.5, "all prompts of a conversation but its first go on: {record:?}");
    for user in 1..=4 {
        let turns: Vec<_> = record.requests.iter().filter(|request| request.user == user).collect();
        assert_eq!(turns.iter().map(|turn| turn.round).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        for (turn, next) in turns.iter().zip(&turns[1..]) {
            // A second of thought at least, and the answer word for word: all blocks of a prompt and its
            // answer are there.
            assert!(next.launched > turn.launched + turn.latency + 1.0, "{next:?}");
            assert!(next.prompt_tokens > turn.prompt_tokens + turn.output_tokens, "{next:?}");
            let known = (turn.prompt_tokens + turn.output_tokens - 1) / 16 * 16;
            assert_eq!(next.cached_tokens, Some(known), "{next:?} after {turn:?}");
        }
    }
    let line = "Successful requests:                     40";
    assert!(record.summary.iter().any(|summary| summary == line), "{:?}", record.summary);
}

#[tokio::test]
async fn a_trace_is_sent_at_its_times() {
    let file = format!("{}/traffic-trace.jsonl", env!("CARGO_TARGET_TMPDIR"));
    let line = |time: f64, question: &str, answer: u32| {
        let segments = format!(r#"[["tools:t", 160], ["system:s", 320], ["{question}", 20]]"#);
        format!("{{\"time\": {time}, \"segments\": {segments}, \"output_tokens\": {answer}}}\n")
    };
    let trace = [line(1000.0, "q1", 10), line(1020.0, "q2", 0), line(1030.0, "q1", 200)].concat();
    std::fs::write(&file, trace).unwrap();
    let record = run(Faults::default(), &["--workload", "trace", "--trace", &file]).await.unwrap();
    assert_eq!((record.answered(), record.errors.len()), (3, 0), "{}", record.errors_line());
    let [first, second, third] = &record.requests[..] else { panic!("{record:?}") };
    for (request, at, output_tokens) in [(first, 0.0, 10), (second, 20.0, 1), (third, 30.0, 200)] {
        // A moment of a busy machine is seconds of the pod's.
        assert!((at..at + 20.0).contains(&request.launched), "{request:?}");
        assert_eq!(request.output_tokens, output_tokens, "{request:?}");
    }
    assert_eq!(first.cached_tokens, Some(0));
    assert!(second.cached_tokens >= Some(480), "tools and system prompt are those of the first: {second:?}");
    assert!(third.cached_tokens >= Some(500), "it is the first again: {third:?}");
}

#[tokio::test]
async fn failures_are_counted_by_kind_and_the_rest_goes_on() {
    let (task, address) = pod(Faults::default()).await;
    let url = format!("http://{address}");
    let flags = ["--url", &url, "--workload", "random", "--num-prompts", "60", "--max-concurrency", "4"];
    let lengths = ["--random-input-len", "50", "--random-output-len", "60", "--ignore-eos"];
    let options = options(&[&flags[..], &lengths[..]].concat());
    let break_some = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let faults = r#"{"fail": 3, "status": 503, "cut": 2, "cut_after": 3}"#;
        let sent =
            reqwest::Client::new().post(format!("{url}/sim/faults")).body(faults).send().await.unwrap();
        assert!(sent.status().is_success(), "{sent:?}");
    };
    let (record, ()) = tokio::join!(measure(&options), break_some);
    let record = record.unwrap();
    task.abort();
    assert_eq!(record.answered(), 55, "{}", record.errors_line());
    let errors: Vec<_> = record.errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(errors, [("broken off", 2), ("status 503", 3)]);
    assert!(record.text().contains("Errors: 2 broken off, 3 status 503; the first: "), "{}", record.text());
}

#[tokio::test]
async fn a_first_request_that_fails_ends_the_run() {
    let cut = Faults { cut: u32::MAX, cut_after: 3, ..Faults::default() };
    let error = run(cut, &["--workload", "random"]).await.unwrap_err().to_string();
    assert!(error.starts_with("a first request to http://127.0.0.1:"), "{error}");
    assert!(error.contains("broken off"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_measured_is_said_in_a_sentence() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for workload in ["multi-round-qa", "random"] {
        let error =
            measure(&options(&["--url", &url, "--workload", workload])).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot reach {url}: ")), "{error}");
    }
    let error = run(Faults::default(), &["--workload", "random", "--model", "nonsense"]).await.unwrap_err();
    assert!(error.to_string().contains("status 404"), "{error}");
    let pods = ["--workload", "random", "--pods", &free.to_string()];
    let error = run(Faults::default(), &pods).await.unwrap_err().to_string();
    assert!(error.contains("/metrics is no page of a vLLM pod"), "{error}");
}

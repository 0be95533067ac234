//! The workloads in time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use futures::future::join_all;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Outgoing, TrafficClient};
use super::clock::ServerClock;
use super::dialogue::Dialogue;
use super::outcome::{Failure, Outcome};
use super::random::RandomPrompts;
use super::sessions::{Message, Sessions, TICK};
use super::watch::{Seen, Watch};
use super::{Named, TrafficOptions};
use crate::engine::Hardware;
use crate::workload::{RequestClass, Session, Traffic, Workload, WorkloadError, classes, trace};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
/// The pods that the load of `criticality` and `tenants` is for, unless the user says otherwise.
const CLASSES_PODS: usize = 8;
/// Their requests that are to notice nothing of the others, unless the user says otherwise.
const CLASSES_REQUESTS: usize = 300;
/// Requests that the original warms up with, all at once.
const WARM_UP: u32 = 10;

/// What a run came to.
#[derive(Debug)]
pub(super) struct Ran {
    /// In the order in which they ended.
    pub(super) outcomes: Vec<Outcome>,
    /// When the first one was due and when the last one ended, in the server's seconds.
    pub(super) began: f64,
    pub(super) ended: f64,
    /// The same as Unix seconds of real time.
    pub(super) began_unix: f64,
    pub(super) seen: Seen,
}

/// What is to be sent.
#[derive(Debug)]
enum Plan {
    MultiRoundQa,
    Random,
    /// One of the fleet's workloads, or a trace.
    Sessions(Workload),
}

impl Plan {
    fn new(options: &TrafficOptions) -> Result<Plan, WorkloadError> {
        let traffic = |pods, requests| Traffic {
            pods: options.profile.unwrap_or(Hardware::A10).pods(options.fleet_pods.unwrap_or(pods)),
            requests: options.requests.unwrap_or(requests),
            rate: options.rate,
            seed: options.seed,
        };
        if let Some(spec) = options.workload.spec() {
            return Ok(Plan::Sessions(spec.build(&traffic(spec.pods, spec.requests))));
        }
        let classes = traffic(CLASSES_PODS, CLASSES_REQUESTS);
        match (options.workload, &options.trace) {
            (Named::Criticality, _) => {
                Ok(Plan::Sessions(classes::overload_of_others(&classes, options.others.unwrap_or(3.0))))
            }
            (Named::Tenants, _) => {
                Ok(Plan::Sessions(classes::burst_of_another(&classes, options.others.unwrap_or(100.0))))
            }
            (Named::MultiRoundQa, _) => Ok(Plan::MultiRoundQa),
            (Named::Random, _) => Ok(Plan::Random),
            (_, Some(file)) => Ok(Plan::Sessions(trace::load(&file.to_string_lossy())?)),
            (_, None) => Err(WorkloadError::NoTrace),
        }
    }
}

/// Runs the workload to its end. Ctrl-C ends it without a summary: half a run compares with nothing.
pub(super) async fn run(options: &TrafficOptions) -> anyhow::Result<Ran> {
    let clock = ServerClock::new(options.speed_up);
    let client = TrafficClient::new(options.base()?, options.api_key.clone(), clock)?;
    let plan = Plan::new(options)?;
    first_requests(options, &plan, &client).await?;
    let watch = Watch::start(&options.pods, options.sample_interval, clock).await?;
    let began = clock.now();
    let began_unix = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let (unit, total) = match &plan {
        Plan::MultiRoundQa => ("s", options.time as u64),
        Plan::Random => ("requests", options.num_prompts.into()),
        Plan::Sessions(workload) => ("requests", workload.requests() as u64),
    };
    let bar = progress(total, &format!("{{elapsed_precise}} {{wide_bar}} {{pos}}/{{len}} {unit}  {{msg}}"))?;
    let outcomes = tokio::select! {
        outcomes = async {
            match &plan {
                Plan::MultiRoundQa => multi_round_qa(options, &client, clock, &bar).await,
                Plan::Random => random(options, &client, &bar).await,
                Plan::Sessions(workload) => sessions(options, &workload.sessions, &client, clock, &bar).await,
            }
        } => outcomes,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    bar.finish_and_clear();
    let seen = match watch {
        Some(watch) => watch.end().await,
        None => Seen::default(),
    };
    let ended = outcomes.iter().map(|outcome| outcome.finished).fold(began, f64::max);
    Ok(Ran { outcomes, began, ended, began_unix, seen })
}

/// What the originals send before they measure: it shows whether there is a server, and a request that fails
/// ends the run.
async fn first_requests(options: &TrafficOptions, plan: &Plan, client: &TrafficClient) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    match plan {
        Plan::MultiRoundQa => {
            for user in 0..WARM_UP {
                let content =
                    format!("WARMUP: Hi, I'm user {user}. Here are some text: {}.", "hi ".repeat(100));
                let ask = chat(options, &[Message { role: "user", content }], 100);
                let client = client.clone();
                tasks.spawn(async move { client.send(ask).await });
            }
        }
        Plan::Random => {
            let ask = completion(options, &RandomPrompts::new(options), 0);
            let client = client.clone();
            tasks.spawn(async move { client.send(ask).await });
        }
        Plan::Sessions(_) => {
            // Nothing of it is in the workload, whose first prompts must meet cold caches.
            let content = "Hi, is anybody there?".to_owned();
            let ask = chat(options, &[Message { role: "user", content }], 10);
            let client = client.clone();
            tasks.spawn(async move { client.send(ask).await });
        }
    }
    while let Some(done) = tasks.join_next().await {
        match done?.failure {
            None => {}
            Some(Failure::Unreachable(why)) => {
                bail!("cannot reach {}: {why}. Is the gateway up, and is it its port?", options.url)
            }
            Some(failure) => bail!("a first request to {} failed: {failure}", options.url),
        }
    }
    Ok(())
}

async fn multi_round_qa(
    options: &TrafficOptions,
    client: &TrafficClient,
    clock: ServerClock,
    bar: &ProgressBar,
) -> Vec<Outcome> {
    let began = clock.now();
    let mut sessions = Sessions::new(options);
    let (mut tasks, mut outcomes) = (JoinSet::new(), Vec::new());
    let mut tick = 0.0;
    loop {
        let now = clock.now() - began;
        bar.set_position(now as u64);
        while let Some(Ok(outcome)) = tasks.try_join_next() {
            take(&mut sessions, &mut outcomes, outcome);
        }
        if now > options.time {
            break;
        }
        for question in sessions.step(now) {
            let mut ask = chat(options, &question.messages, question.max_tokens);
            (ask.user, ask.round) = (question.user, question.round);
            let client = client.clone();
            tasks.spawn(async move { client.send(ask).await });
        }
        bar.set_message(format!("{} answered, {} on the way", outcomes.len(), tasks.len()));
        tick = (tick + TICK).max(now);
        tokio::time::sleep_until(clock.when(began + tick)).await;
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok(outcome) = done {
            take(&mut sessions, &mut outcomes, outcome);
        }
    }
    outcomes
}

fn take(sessions: &mut Sessions, outcomes: &mut Vec<Outcome>, mut outcome: Outcome) {
    let text = std::mem::take(&mut outcome.text);
    sessions.answered(outcome.user, outcome.failure.is_none().then_some(text));
    outcomes.push(outcome);
}

async fn random(options: &TrafficOptions, client: &TrafficClient, bar: &ProgressBar) -> Vec<Outcome> {
    let prompts = RandomPrompts::new(options);
    let (mut tasks, mut outcomes) = (JoinSet::new(), Vec::new());
    let mut failed = 0;
    let mut waiting = 0..options.num_prompts;
    loop {
        while tasks.len() < options.max_concurrency as usize
            && let Some(nth) = waiting.next()
        {
            let ask = completion(options, &prompts, nth);
            let client = client.clone();
            tasks.spawn(async move { client.send(ask).await });
        }
        let Some(done) = tasks.join_next().await else { return outcomes };
        if let Ok(outcome) = done {
            failed += u32::from(outcome.failure.is_some());
            outcomes.push(outcome);
        }
        bar.inc(1);
        if failed > 0 {
            bar.set_message(format!("{failed} failed"));
        }
    }
}

/// An open loop: however late answers are, sessions start at their times. Within one, a turn waits for the
/// answer before it.
async fn sessions(
    options: &TrafficOptions,
    sessions: &[Session],
    client: &TrafficClient,
    clock: ServerClock,
    bar: &ProgressBar,
) -> Vec<Outcome> {
    let began = clock.now();
    let failed = AtomicU64::new(0);
    let ended = |outcome: &Outcome| {
        bar.inc(1);
        if outcome.failure.is_some() {
            bar.set_message(format!("{} failed", failed.fetch_add(1, Ordering::Relaxed) + 1));
        }
    };
    let ended = &ended;
    let all = (1..).zip(sessions).map(|(user, session)| async move {
        let mut outcomes = Vec::with_capacity(session.turns.len());
        let mut dialogue = Dialogue::new(options.seed);
        let mut due = began + session.starts;
        for (round, turn) in (1..).zip(&session.turns) {
            tokio::time::sleep_until(clock.when(due + turn.think)).await;
            dialogue.add(&turn.adds);
            let model = session.class.adapter_name().unwrap_or_else(|| options.model.clone());
            let next = turn_of(options, &model, &dialogue, turn.output_tokens);
            let ask = Outgoing { user, round, class: session.class, ..next };
            let mut outcome = client.send(ask).await;
            due = outcome.finished;
            let text = std::mem::take(&mut outcome.text);
            dialogue.answered(turn, outcome.failure.is_none().then_some(text));
            ended(&outcome);
            outcomes.push(outcome);
        }
        outcomes
    });
    let mut outcomes: Vec<Outcome> = join_all(all).await.into_iter().flatten().collect();
    outcomes.sort_by(|a, b| a.finished.total_cmp(&b.finished));
    outcomes
}

fn chat(options: &TrafficOptions, messages: &[Message], max_tokens: u32) -> Outgoing {
    let body = chat_body(options, messages, max_tokens);
    outgoing(CHAT, &body, true)
}

/// What a dialogue sends next.
fn turn_of(options: &TrafficOptions, model: &str, dialogue: &Dialogue, output_tokens: u32) -> Outgoing {
    // vLLM refuses to answer with nothing, which a trace may ask for.
    let mut body = chat_body(options, dialogue.messages(), output_tokens.max(1));
    if let Some(fields) = body.as_object_mut() {
        fields.insert("model".to_owned(), model.into());
        // How long answers are is part of the workload.
        fields.insert("ignore_eos".to_owned(), true.into());
        if !dialogue.tools().is_empty() {
            fields.insert("tools".to_owned(), dialogue.tools().into());
        }
    }
    outgoing(CHAT, &body, true)
}

fn chat_body(options: &TrafficOptions, messages: &[Message], max_tokens: u32) -> Value {
    json!({
        "model": options.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

fn completion(options: &TrafficOptions, prompts: &RandomPrompts, nth: u32) -> Outgoing {
    let prompt = prompts.get(nth);
    let mut body = json!({
        "model": options.model,
        "prompt": prompt.text,
        "temperature": 0,
        "max_tokens": prompt.output_tokens,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if options.ignore_eos
        && let Some(fields) = body.as_object_mut()
    {
        fields.insert("ignore_eos".to_owned(), true.into());
    }
    Outgoing { user: nth, ..outgoing(COMPLETION, &body, false) }
}

fn outgoing(path: &'static str, body: &Value, keep_text: bool) -> Outgoing {
    let class = RequestClass::default();
    Outgoing { path, body: body.to_string(), keep_text, user: 0, round: 0, class }
}

/// A bar on standard error, if that is a terminal.
fn progress(total: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(4));
    bar.set_style(ProgressStyle::with_template(template)?);
    // It moves even when no request ends for a while.
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

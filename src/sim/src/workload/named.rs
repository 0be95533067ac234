//! The built-in workloads. Each is a row of [`ALL`] and a function from the fleet's capacity to sessions.
//!
//! Rates are not fixed numbers: each workload says which share of the fleet's capacity it wants, given what a request
//! is expected to compute, so that one description loads an A10 and an H100 alike.

use super::dice::{Dice, Zipf};
use super::{Change, Fate, Role, Session, Span, Turn, Workload, WorkloadError};
use crate::engine::EngineConfig;

/// A built-in workload.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What to call it on the command line.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Pods, unless the user says otherwise.
    pub pods: usize,
    /// Requests, unless the user says otherwise.
    pub requests: usize,
    build: fn(&Traffic, &mut Dice) -> Workload,
}

/// Every built-in workload.
pub const ALL: &[Spec] = &[
    Spec {
        name: "chats",
        about: "conversations of 10 rounds; each prompt is all that was said before",
        pods: 4,
        requests: 3000,
        build: chats,
    },
    Spec {
        name: "documents",
        about: "short questions about 60 documents of 8,000 to 30,000 tokens, by Zipf's law",
        pods: 4,
        requests: 1500,
        build: documents,
    },
    Spec {
        name: "hot-prefix",
        about: "every prompt starts with the same 6,000 tokens; 60 requests a second",
        pods: 8,
        requests: 4000,
        build: hot_prefix,
    },
    Spec {
        name: "groups",
        about: "150 prefixes of 6,000 tokens, more than the fleet can serve",
        pods: 8,
        requests: 3000,
        build: groups,
    },
    Spec { name: "random", about: "prompts that share nothing", pods: 4, requests: 3000, build: random },
    Spec {
        name: "agents",
        about: "tool loops of 8 to 30 calls whose prompt grows with every call",
        pods: 4,
        requests: 3000,
        build: agents,
    },
    Spec {
        name: "bursts",
        about: "nothing for a while, then hundreds of requests at once, over 40 prefixes",
        pods: 8,
        requests: 3000,
        build: bursts,
    },
    Spec {
        name: "churn",
        about: "conversations while pods crash, come back empty, leave and join",
        pods: 8,
        requests: 4000,
        build: churn,
    },
];

/// Finds a built-in workload.
///
/// # Errors
/// [`WorkloadError::Unknown`] with the names there are.
pub fn find(name: &str) -> Result<&'static Spec, WorkloadError> {
    ALL.iter().find(|spec| spec.name == name).ok_or_else(|| WorkloadError::Unknown(name.to_owned()))
}

impl Spec {
    /// The workload for a fleet.
    pub fn build(&self, traffic: &Traffic) -> Workload {
        let mut workload = (self.build)(traffic, &mut Dice::new(traffic.seed, 1));
        workload.sessions.sort_by(|a, b| a.starts.total_cmp(&b.starts));
        workload.changes.sort_by(|a, b| a.at.total_cmp(&b.at));
        workload
    }
}

/// What a workload is made for.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The pods it will meet.
    pub pods: Vec<EngineConfig>,
    /// How many requests, about.
    pub requests: usize,
    /// Requests a second; `None` for the workload's own share of the capacity.
    pub rate: Option<f64>,
    /// Of all chance in it.
    pub seed: u64,
}

/// What a request is expected to need, mean values in tokens.
#[derive(Clone, Copy, Debug)]
struct Need {
    /// Prompt tokens to compute after a good router's cache hits.
    computed: f64,
    /// Tokens of context while it decodes.
    context: f64,
    /// Tokens of the answer.
    output: f64,
}

impl Traffic {
    /// Requests a second that use `share` of the fleet: of its compute, or of its KV memory where that ends first.
    fn rate(&self, share: f64, need: Need) -> f64 {
        if let Some(rate) = self.rate {
            return rate;
        }
        self.pods.iter().map(|pod| share * pod_rate(pod, need)).sum()
    }
}

/// Requests a second of one pod at its limit.
fn pod_rate(pod: &EngineConfig, need: Need) -> f64 {
    let budget = f64::from(pod.max_num_batched_tokens);
    let full_step = pod.step_seconds + budget / pod.prefill_tokens_per_second;
    let decode = pod.decode_seconds_per_seq + need.context * pod.decode_seconds_per_context_token;
    let by_compute = 1.0 / (need.computed * full_step / budget + need.output * decode);
    // With some 25 requests in a batch, and half as long again for the prefills of others in between.
    let stay = need.output * (pod.step_seconds + 25.0 * decode) * 1.5;
    let by_memory = f64::from(pod.capacity_tokens()) / (need.context * stay.max(full_step));
    by_compute.min(by_memory)
}

fn span(role: Role, name: u64, tokens: u32) -> Span {
    Span { name, tokens, role }
}

/// A session of one request.
fn once(dice: &mut Dice, starts: f64, adds: Vec<Span>, output_tokens: u32) -> Session {
    let answer = dice.name();
    Session { starts, turns: vec![Turn { think: 0.0, adds, output_tokens, answer }] }
}

/// `requests` single requests by Poisson arrivals of `rate` a second.
fn open_loop(
    traffic: &Traffic,
    rate: f64,
    dice: &mut Dice,
    mut one: impl FnMut(&mut Dice) -> (Vec<Span>, u32),
) -> Workload {
    let mut now = 0.0;
    let sessions = (0..traffic.requests)
        .map(|_| {
            now += dice.wait(1.0 / rate);
            let (adds, output) = one(dice);
            once(dice, now, adds, output)
        })
        .collect();
    Workload { sessions, changes: Vec::new() }
}

fn chats(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const ROUNDS: usize = 10;
    // A new conversation computes its history once, the rest only what is new.
    let need = Need { computed: 330.0, context: 2600.0, output: 110.0 };
    // Half of the memory is left to the caches of those who think.
    let rate = traffic.rate(0.5, need) / ROUNDS as f64;
    let system = dice.name();
    let mut now = 0.0;
    let sessions = (0..traffic.requests.div_ceil(ROUNDS))
        .map(|_| {
            now += dice.wait(1.0 / rate);
            let history = dice.between(500, 2500);
            conversation(dice, now, system, history, ROUNDS)
        })
        .collect();
    Workload { sessions, changes: Vec::new() }
}

/// A conversation: a system prompt of 200 tokens that all share, a history of its own, then questions.
fn conversation(dice: &mut Dice, starts: f64, system: u64, history: u32, rounds: usize) -> Session {
    let turns = (0..rounds)
        .map(|round| {
            let mut adds = Vec::new();
            if round == 0 {
                adds.push(span(Role::System, system, 200));
                adds.push(span(Role::User, dice.name(), history));
            } else {
                adds.push(span(Role::User, dice.name(), dice.skewed(15, 300)));
            }
            Turn {
                think: if round == 0 { 0.0 } else { 1.0 + dice.wait(4.0) },
                adds,
                output_tokens: dice.skewed(40, 250),
                answer: dice.name(),
            }
        })
        .collect();
    Session { starts, turns }
}

fn documents(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const DOCUMENTS: usize = 60;
    let zipf = Zipf::new(DOCUMENTS, 1.0);
    let documents: Vec<Span> =
        (0..DOCUMENTS).map(|_| span(Role::System, dice.name(), dice.between(8_000, 30_000))).collect();
    // What a fleet cannot hold must be computed again and again: the share of questions whose document is among the
    // most asked that fit.
    let mean = documents.iter().map(|d| f64::from(d.tokens)).sum::<f64>() / DOCUMENTS as f64;
    let held: f64 =
        traffic.pods.iter().map(|pod| f64::from(pod.capacity_tokens())).sum::<f64>() * 0.75 / mean;
    let harmonic = |n: f64| if n < 1.0 { n } else { n.ln() + 0.58 };
    let hits = (harmonic(held) / harmonic(DOCUMENTS as f64)).min(0.97);
    let need = Need { computed: mean * (1.0 - hits) + 60.0, context: mean, output: 60.0 };
    let rate = traffic.rate(0.7, need);
    open_loop(traffic, rate, dice, |dice| {
        let document = documents.get(zipf.draw(dice)).copied().unwrap_or(span(Role::System, 0, 8_000));
        let question = span(Role::User, dice.name(), dice.skewed(20, 150));
        (vec![document, question], dice.skewed(20, 150))
    })
}

fn hot_prefix(traffic: &Traffic, dice: &mut Dice) -> Workload {
    // 60 a second on eight A10; a fleet of another size or make gets as much for its prefill rate.
    let power: f64 = traffic.pods.iter().map(|pod| pod.prefill_tokens_per_second / 5_500.0).sum();
    let rate = traffic.rate.unwrap_or(60.0 / 8.0 * power);
    let prefix = span(Role::System, dice.name(), 6_000);
    open_loop(traffic, rate, dice, |dice| {
        (vec![prefix, span(Role::User, dice.name(), dice.skewed(30, 200))], dice.skewed(20, 80))
    })
}

fn groups(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let prefixes: Vec<Span> = (0..150).map(|_| span(Role::System, dice.name(), 6_000)).collect();
    // Beyond what the fleet can hold and compute, on purpose.
    let held = traffic.pods.iter().map(|pod| f64::from(pod.capacity_tokens())).sum::<f64>() * 0.7;
    let hits = (held / (150.0 * 6_000.0)).min(0.98);
    let need = Need { computed: 6_000.0 * (1.0 - hits) + 600.0, context: 6_800.0, output: 150.0 };
    let rate = traffic.rate(1.6, need);
    open_loop(traffic, rate, dice, |dice| {
        let prefix = prefixes.get(dice.below(150)).copied().unwrap_or(span(Role::System, 0, 6_000));
        let question = span(Role::User, dice.name(), dice.between(300, 900));
        (vec![prefix, question], dice.between(50, 250))
    })
}

fn random(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let need = Need { computed: 1_000.0, context: 1_100.0, output: 120.0 };
    let rate = traffic.rate(0.5, need);
    open_loop(traffic, rate, dice, |dice| {
        (vec![span(Role::User, dice.name(), dice.skewed(100, 4_000))], dice.skewed(30, 300))
    })
}

fn agents(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let tools = span(Role::Tools, dice.name(), 2_500);
    let system = span(Role::System, dice.name(), 700);
    let need = Need { computed: 700.0, context: 8_500.0, output: 90.0 };
    let rate = traffic.rate(0.6, need);
    let (mut now, mut left) = (0.0, traffic.requests);
    let mut sessions = Vec::new();
    while left > 0 {
        let calls = (dice.between(8, 30) as usize).min(left);
        left -= calls;
        now += dice.wait(calls as f64 / rate);
        let turns = (0..calls)
            .map(|call| {
                let adds = match call {
                    0 => vec![tools, system, span(Role::User, dice.name(), dice.skewed(50, 1_000))],
                    _ => vec![span(Role::Tool, dice.name(), dice.skewed(60, 2_000))],
                };
                Turn {
                    // A tool takes a tenth of a second, or a few.
                    think: if call == 0 { 0.0 } else { 0.1 + dice.wait(1.0) },
                    adds,
                    output_tokens: dice.skewed(30, 250),
                    answer: dice.name(),
                }
            })
            .collect();
        sessions.push(Session { starts: now, turns });
    }
    Workload { sessions, changes: Vec::new() }
}

fn bursts(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const SIZE: usize = 300;
    let prefixes: Vec<Span> =
        (0..40).map(|_| span(Role::System, dice.name(), dice.between(500, 3_000))).collect();
    let zipf = Zipf::new(prefixes.len(), 0.8);
    let need = Need { computed: 700.0, context: 2_500.0, output: 80.0 };
    // A burst's work is done in half of the time until the next.
    let gap = SIZE as f64 / traffic.rate(0.5, need);
    let sessions = (0..traffic.requests)
        .map(|n| {
            let starts = (n / SIZE) as f64 * gap + dice.unit() * 0.25;
            let prefix = prefixes.get(zipf.draw(dice)).copied().unwrap_or(span(Role::System, 0, 500));
            let question = span(Role::User, dice.name(), dice.skewed(30, 800));
            let output = dice.skewed(30, 180);
            once(dice, starts, vec![prefix, question], output)
        })
        .collect();
    Workload { sessions, changes: Vec::new() }
}

fn churn(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let mut workload = chats(traffic, dice);
    // Three quarters of the fleet is there on average: its own share of the capacity is of less. A rate is as it was asked.
    let stretch = if traffic.rate.is_some() { 1.0 } else { 1.25 };
    for session in &mut workload.sessions {
        session.starts *= stretch;
    }
    let end = workload.sessions.last().map_or(1.0, |session| session.starts);
    let pods = traffic.pods.len();
    let mut at = |share: f64, pod: usize, fate: Fate| {
        if pod < pods && pods > 1 {
            workload.changes.push(Change { at: end * share, pod, fate });
        }
    };
    // The last quarter of the pods joins late; others crash one after another and come back; one leaves for good.
    for (nth, pod) in (pods - pods / 4..pods).enumerate() {
        at(0.3 + 0.05 * nth as f64, pod, Fate::Joins);
        at(0.8 + 0.05 * nth as f64, pod, Fate::Leaves);
    }
    for (nth, pod) in [0, 2, 1, 0].into_iter().enumerate() {
        at(0.15 + 0.15 * nth as f64, pod, Fate::Dies);
        at(0.21 + 0.15 * nth as f64, pod, Fate::Returns);
    }
    workload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Profile;

    fn traffic(requests: usize) -> Traffic {
        Traffic { pods: vec![Profile::A10.config(); 8], requests, rate: None, seed: 1 }
    }

    #[test]
    fn workloads_have_the_requests_they_should_and_can_be_served() {
        for spec in ALL {
            let workload = spec.build(&traffic(600));
            assert_eq!(workload.requests(), 600, "{}", spec.name);
            assert_eq!(workload, spec.build(&traffic(600)), "{}", spec.name);
            assert!(workload.sessions.is_sorted_by(|a, b| a.starts <= b.starts), "{}", spec.name);
            for session in &workload.sessions {
                let tokens: u32 = session
                    .turns
                    .iter()
                    .map(|turn| turn.adds.iter().map(|s| s.tokens).sum::<u32>() + turn.output_tokens)
                    .sum();
                assert!(tokens <= Profile::A10.config().capacity_tokens(), "{}: {tokens}", spec.name);
            }
        }
    }

    #[test]
    fn a_rate_that_is_asked_for_is_kept() {
        for name in ["chats", "random", "churn"] {
            let asked = Traffic { rate: Some(5.0), ..traffic(4000) };
            let workload = find(name).unwrap().build(&asked);
            let end = workload.sessions.last().unwrap().starts;
            let rate = workload.requests() as f64 / end;
            assert!((4.3..5.7).contains(&rate), "{name}: {rate}");
        }
    }

    #[test]
    fn a_fleet_twice_as_large_gets_twice_the_rate() {
        let need = Need { computed: 1000.0, context: 1000.0, output: 100.0 };
        let four = Traffic { pods: vec![Profile::A10.config(); 4], ..traffic(1) };
        assert!((traffic(1).rate(0.7, need) / four.rate(0.7, need) - 2.0).abs() < 1e-9);
    }
}

//! The workloads that are built in.

use super::capacity::Traffic;
use super::dice::Dice;
use super::{Workload, WorkloadError, conversations, open_loop};

/// A built-in workload.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What to call it on the command line.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Whom it stands for, and what it asks of a router.
    pub explains: &'static str,
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
        explains: "People who chat: a shared system prompt of 200 tokens, a history of 500 to 2,500 tokens, nine short \
                   questions with some five seconds in between; half of the fleet's capacity. A conversation that \
                   stays on its pod computes only what is new.",
        pods: 4,
        requests: 3000,
        build: conversations::chats,
    },
    Spec {
        name: "documents",
        about: "short questions about 60 documents of 8,000 to 30,000 tokens, by Zipf's law",
        explains: "Questions about long documents, a few of which are asked about most. The fleet's caches hold only a \
                   part of them: a router that copies documents to every pod makes all pods compute them again and again.",
        pods: 4,
        requests: 1500,
        build: open_loop::documents,
    },
    Spec {
        name: "hot-prefix",
        about: "every prompt starts with the same 6,000 tokens; 60 requests per second on 8 A10",
        explains: "One application with one long system prompt. A router that only follows the match sends everything \
                   to the pod that computed it first; the right thing is to have the prefix on all pods, soon.",
        pods: 8,
        requests: 4000,
        build: open_loop::hot_prefix,
    },
    Spec {
        name: "groups",
        about: "150 prefixes of 6,000 tokens, more than the fleet can serve",
        explains: "Many tenants, each with a long prefix of its own, at 1.6 times the fleet's capacity. Queues grow \
                   whatever the router does; one that keeps prefixes apart serves more of them.",
        pods: 8,
        requests: 3000,
        build: open_loop::groups,
    },
    Spec {
        name: "random",
        about: "prompts of 100 to 4,000 tokens that share nothing",
        explains: "Nothing to match, at half of the capacity: what is left is balancing by load, where knowing of \
                   prefixes must cost nothing.",
        pods: 4,
        requests: 3000,
        build: open_loop::random,
    },
    Spec {
        name: "agents",
        about: "tool loops of 8 to 30 calls whose prompt grows with every call",
        explains: "Coding agents: 2,500 tokens of tools and 700 of instructions that all share, then results of tools \
                   of up to 2,000 tokens, each a second after the last answer. Contexts of 8,000 tokens and more make \
                   KV memory the limit.",
        pods: 4,
        requests: 3000,
        build: conversations::agents,
    },
    Spec {
        name: "bursts",
        about: "300 requests within a quarter of a second, over 40 prefixes, then a pause",
        explains: "Batch jobs and cron: all pods are idle, then hundreds of requests come before any page of metrics \
                   says so. A router that reads loads only now and then sends them all to one pod.",
        pods: 8,
        requests: 3000,
        build: open_loop::bursts,
    },
    Spec {
        name: "equal-prompts",
        about: "64 equal prompts at once after 200 others, cold and then warm",
        explains: "A job that asks one question many times, beside the day's traffic at 30 % of the fleet's capacity. What came \
                   before says nothing of it: a router that follows the match, or learns slowly what is asked often, lets the \
                   burst queue on one pod while others are idle.",
        pods: 4,
        requests: 3000,
        build: open_loop::equal_prompts,
    },
    Spec {
        name: "churn",
        about: "conversations while pods crash, come back empty, leave and join",
        explains: "A rolling upgrade and a bad day: four crashes, each with an empty cache after it, a quarter of the \
                   pods joins late and leaves early. What was cached on a pod that is gone must be forgotten.",
        pods: 8,
        requests: 4000,
        build: conversations::churn,
    },
    Spec {
        name: "overload",
        about: "more than the fleet can do, on pods that refuse when they are full",
        explains: "Pods with both admission limits of vLLM (--max-num-queued-reqs, --max-num-queued-tokens): a full pod \
                   refuses at once, up to three pods are tried per request, and a client whose request all of them refuse gives up. What counts is how many are \
                   answered, before how fast.",
        pods: 8,
        requests: 4000,
        build: open_loop::overload,
    },
    Spec {
        name: "adapters",
        about: "conversations with 40 LoRA adapters of one model, of which a pod has 8 at a time",
        explains: "Many small customers, each with an adapter, by Zipf's law. A pod holds eight of the forty at a time, and a request \
                   waits half a second for one that is not loaded, longer where all eight have requests. A router that does not \
                   know adapters has every pod load one after the other.",
        pods: 8,
        requests: 6000,
        build: conversations::adapters,
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
}

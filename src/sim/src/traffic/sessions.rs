//! Who asks what and when in `multi-round-qa`, on virtual time: no clock and no I/O.
//!
//! As in the original: each user asks again when `num_users / qps` seconds have passed since its last
//! question and that one is answered. A user stays for `num_rounds` questions, and a new one joins as often
//! as one leaves, so that the users together ask `qps` questions a second. The run begins in the middle: the
//! first users are as far in their sessions as they would be had it run for ever, though they have said
//! nothing yet but their context.

use serde::Serialize;

use super::TrafficOptions;
use super::words::Words;

/// How often the original looks who is due, in seconds. It adds half of this to a gap on average.
pub(super) const TICK: f64 = 0.1;

/// ShareGPT's lengths in tokens, fitted to what the reference's run says of itself: 2,399 tokens a prompt and
/// 45 an answer. Medians and the spread of the logarithm.
const QUESTION: (f64, f64) = (30.0, 1.0);
const ANSWER: (f64, f64) = (36.0, 0.8);
/// Shorter answers would make the mean of tokens per second over requests, which the summary has, that of the
/// shortest.
const SHORTEST_ANSWER: u32 = 10;

/// All users.
#[derive(Debug)]
pub(super) struct Sessions {
    plan: Plan,
    users: Vec<User>,
    /// Number of the latest user.
    latest: u32,
    /// When a user joined last.
    joined: Option<f64>,
    begun: bool,
}

/// What all users have in common.
#[derive(Clone, Debug)]
struct Plan {
    users: u32,
    rounds: u32,
    /// Seconds between two questions of a user.
    gap: f64,
    /// Seconds between two users that join.
    join_gap: f64,
    system_tokens: u32,
    history_tokens: u32,
    answer_tokens: u32,
    sharegpt: bool,
    seed: u64,
}

#[derive(Debug)]
struct User {
    id: u32,
    /// Questions asked, those before its first one included.
    asked: u32,
    last: Option<f64>,
    waits: bool,
    messages: Vec<Message>,
    words: Words,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Message {
    /// `user` or `assistant`.
    pub(super) role: &'static str,
    /// Its text.
    pub(super) content: String,
}

/// A question that is due.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Who asks.
    pub(super) user: u32,
    /// The how-manieth of that user, from 1.
    pub(super) round: u32,
    /// All that was said, the question last.
    pub(super) messages: Vec<Message>,
    /// Tokens of the answer, at most.
    pub(super) max_tokens: u32,
}

impl Sessions {
    /// Nobody has asked yet.
    pub(super) fn new(options: &TrafficOptions) -> Sessions {
        let users = options.num_users;
        let gap = f64::from(users) / options.qps;
        let alive = gap * f64::from(options.num_rounds.saturating_sub(1));
        let plan = Plan {
            users,
            rounds: options.num_rounds,
            gap,
            join_gap: alive / f64::from(users),
            system_tokens: options.shared_system_prompt,
            history_tokens: options.user_history_prompt,
            answer_tokens: options.answer_len,
            sharegpt: options.sharegpt,
            seed: options.seed,
        };
        Sessions { plan, users: Vec::new(), latest: options.init_user_id, joined: None, begun: false }
    }

    /// The questions that are due at `now`.
    pub(super) fn step(&mut self, now: f64) -> Vec<Question> {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(now);
        }
        if self.joined.is_none_or(|joined| now - joined > self.plan.join_gap) {
            self.join();
            self.joined = Some(now);
        }
        let plan = &self.plan;
        let due = self.users.iter_mut().filter_map(|user| user.step(now, plan)).collect();
        self.users.retain(|user| user.waits || user.asked < plan.rounds);
        due
    }

    /// The answer to a user's question is there, or will never be.
    pub(super) fn answered(&mut self, user: u32, answer: Option<String>) {
        let Some(user) = self.users.iter_mut().find(|each| each.id == user) else { return };
        user.waits = false;
        match answer {
            Some(content) => user.messages.push(Message { role: "assistant", content }),
            // The next question takes its place. The user's context must not get lost with the first one.
            None if user.messages.len() > 1 => drop(user.messages.pop()),
            None => user.messages.clear(),
        }
    }

    /// The users that would have joined before.
    fn begin(&mut self, now: f64) {
        let ramp_up = f64::from(self.plan.users) * self.plan.join_gap;
        for nth in 0..self.plan.users {
            let since = ramp_up - f64::from(nth) * self.plan.join_gap;
            let gap = self.plan.gap;
            let user = self.join();
            let passed = (since / gap).floor();
            user.asked = passed as u32 + 1;
            user.last = Some(now - since + passed * gap);
        }
    }

    fn join(&mut self) -> &mut User {
        self.latest += 1;
        let words = Words::new(self.plan.seed, self.latest.into());
        let user = User { id: self.latest, asked: 0, last: None, waits: false, messages: Vec::new(), words };
        self.users.push(user);
        let last = self.users.len() - 1;
        // It was pushed just now.
        #[expect(clippy::indexing_slicing)]
        &mut self.users[last]
    }
}

impl User {
    fn step(&mut self, now: f64, plan: &Plan) -> Option<Question> {
        let due = self.last.is_none_or(|last| now - last > plan.gap);
        if self.waits || self.asked >= plan.rounds || !due {
            return None;
        }
        self.asked += 1;
        let mut content = String::new();
        if self.messages.is_empty() {
            content = context(self.id, plan);
        }
        let max_tokens = if plan.sharegpt {
            let words = self.words.length(QUESTION.0, QUESTION.1);
            self.words.append(&mut content, words);
            self.words.length(ANSWER.0, ANSWER.1).max(SHORTEST_ANSWER).min(plan.answer_tokens)
        } else {
            let question = self.asked;
            content
                .push_str(&format!("Question {question}: please tell me another long story that ends well."));
            plan.answer_tokens
        };
        self.messages.push(Message { role: "user", content });
        self.waits = true;
        self.last = Some(now);
        Some(Question { user: self.id, round: self.asked, messages: self.messages.clone(), max_tokens })
    }
}

/// What a user's first question begins with: a part that all have in common, and one of its own. "hi" is a
/// token.
fn context(user: u32, plan: &Plan) -> String {
    let hi = |tokens: u32| vec!["hi"; tokens as usize].join(" ");
    format!(
        "Hi, here's some system prompt: {}.For user {user}, here are some other context: {}.",
        hi(plan.system_tokens),
        hi(plan.history_tokens)
    )
}

#[cfg(test)]
mod tests;

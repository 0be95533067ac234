//! What came of one request.

use std::fmt;

use crate::workload::RequestClass;

/// One request, answered or not. Times are the server's seconds since the traffic began.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// When it was sent.
    pub launched: f64,
    /// When its first token came.
    pub first_token: Option<f64>,
    /// When it was over.
    pub finished: f64,
    /// Tokens of the prompt, as the server counts them.
    pub prompt_tokens: u64,
    /// Of these, how many came from its cache, where it says so.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Seconds between one token and the next.
    pub gaps: Vec<f32>,
    /// The answer, if it was wanted.
    pub text: String,
    /// Why there is no whole answer.
    pub failure: Option<Failure>,
    /// The user (multi-round-qa), the number of the prompt (random), or that of the session, from 1.
    pub user: u32,
    /// The user's question or the session's turn, from 1.
    pub round: u32,
    /// What it is besides its prompt.
    pub class: RequestClass,
}

impl Outcome {
    /// Seconds from sending it to its first token, of a request that was answered whole.
    pub fn ttft(&self) -> Option<f64> {
        self.failure.is_none().then_some(self.first_token? - self.launched)
    }
}

/// Why a request has no whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, with what the system said.
    Unreachable(String),
    /// A status that is no success, with the beginning of its body.
    Status(u16, String),
    /// The connection broke before the answer was whole.
    Broken(String),
    /// The server said so inside the stream.
    Inside(String),
    /// The stream ended without a token.
    Empty,
    /// Nothing more came for too long.
    Silence,
}

impl Failure {
    /// What it is counted under.
    pub fn kind(&self) -> String {
        match self {
            Failure::Unreachable(_) => "no connection".to_owned(),
            Failure::Status(status, _) => format!("status {status}"),
            Failure::Broken(_) => "broken off".to_owned(),
            Failure::Inside(_) => "error in the stream".to_owned(),
            Failure::Empty => "no token".to_owned(),
            Failure::Silence => "timed out".to_owned(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        match self {
            Failure::Unreachable(what)
            | Failure::Status(_, what)
            | Failure::Broken(what)
            | Failure::Inside(what) => {
                write!(f, " ({what})")
            }
            Failure::Empty | Failure::Silence => Ok(()),
        }
    }
}

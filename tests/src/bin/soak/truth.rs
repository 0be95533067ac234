//! What an answer must say. A simulated pod answers a prompt with the same words whenever and wherever it is
//! asked, so a pod of the soak's own, which no Envoy and no fault stands before, tells the words of each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use warmpath_tests::{Request, SimPod};

/// Words that are asked for, at most: more than any client wants.
pub const LONGEST: usize = 64;

/// An API that answers with words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completions,
    Responses,
    Messages,
}

/// What must be answered.
#[derive(Clone, Debug)]
pub struct Truth {
    pub api: Api,
    /// The request, without what does not belong to the prompt.
    pub question: Value,
    /// Words of the answer.
    pub words: usize,
    /// The name that the answer gives its model.
    pub model: &'static str,
}

impl Api {
    pub fn path(self) -> &'static str {
        match self {
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
            Api::Responses => "/v1/responses",
            Api::Messages => "/v1/messages",
        }
    }

    /// The field that limits an answer.
    pub fn limit(self) -> &'static str {
        if self == Api::Responses { "max_output_tokens" } else { "max_tokens" }
    }

    /// The text of a whole answer.
    fn whole(self, answer: &Value) -> Option<&str> {
        match self {
            Api::Chat => answer["choices"][0]["message"]["content"].as_str(),
            Api::Completions => answer["choices"][0]["text"].as_str(),
            Api::Responses => answer["output"][0]["content"][0]["text"].as_str(),
            Api::Messages => answer["content"][0]["text"].as_str(),
        }
    }

    /// The text that an event of a stream adds.
    fn part(self, event: &Value) -> &str {
        let part = match self {
            Api::Chat => &event["choices"][0]["delta"]["content"],
            Api::Completions => &event["choices"][0]["text"],
            Api::Responses if event["type"] == "response.output_text.delta" => &event["delta"],
            Api::Responses => &Value::Null,
            Api::Messages => &event["delta"]["text"],
        };
        part.as_str().unwrap_or_default()
    }

    /// The text of an answer.
    pub fn text(self, body: &[u8], stream: bool) -> Option<String> {
        let body = std::str::from_utf8(body).ok()?;
        if !stream {
            return self.whole(&serde_json::from_str(body).ok()?).map(str::to_owned);
        }
        let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = data.filter_map(|data| serde_json::from_str(data).ok());
        Some(events.map(|event: Value| self.part(&event).to_owned()).collect())
    }
}

impl Truth {
    /// What is wrong with an answer, if its words must be these.
    fn differs(&self, expected: &[String], body: &[u8], stream: bool) -> Result<(), String> {
        let text = self.api.text(body, stream).ok_or("the answer has no text")?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let expected = &expected[..self.words.min(expected.len())];
        if words != expected {
            return Err(format!("it says {words:?} instead of {expected:?}"));
        }
        let model = format!("\"model\":\"{}\"", self.model);
        let named = body.windows(model.len()).any(|at| at == model.as_bytes());
        if named { Ok(()) } else { Err(format!("it does not name the model {}", self.model)) }
    }
}

/// The pod that tells the truth, and what it has said.
pub struct Oracle {
    pod: SimPod,
    hasher: RandomState,
    known: Mutex<HashMap<u64, Arc<[String]>>>,
}

impl Oracle {
    pub fn new(pod: SimPod) -> Oracle {
        Oracle { pod, hasher: RandomState::new(), known: Mutex::default() }
    }

    /// Compares an answer with the truth.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn judge(&self, truth: &Truth, body: &[u8], stream: bool) -> Result<(), String> {
        truth.differs(&self.words(truth).await, body, stream)
    }

    /// The first words that answer a question.
    async fn words(&self, truth: &Truth) -> Arc<[String]> {
        let Truth { api, question, .. } = truth;
        let key = self.hasher.hash_one((api.path(), question.to_string()));
        if let Some(words) = self.known.lock().unwrap().get(&key) {
            return Arc::clone(words);
        }
        let mut whole = question.clone();
        whole[api.limit()] = json!(LONGEST);
        let reply = Request::post(api.path(), &whole).send(self.pod.address().parse().unwrap()).await;
        let text = api.text(&reply.body, false).unwrap_or_else(|| panic!("the oracle says {}", reply.text()));
        let words: Arc<[String]> = text.split_whitespace().map(str::to_owned).collect();
        self.known.lock().unwrap().insert(key, Arc::clone(&words));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_have_all_its_words_and_no_other() {
        let truth = Truth { api: Api::Chat, question: Value::Null, words: 2, model: "qwen" };
        let expected = ["the", "cat", "sat"].map(str::to_owned);
        let whole = |content: &str, model: &str| {
            json!({"model": model, "choices": [{"message": {"content": content}}]}).to_string()
        };
        let judged = |body: String| truth.differs(&expected, body.as_bytes(), false).is_ok();
        assert!(judged(whole("the cat", "qwen")));
        for wrong in ["the", "the cat sat", "the dog", ""] {
            assert!(!judged(whole(wrong, "qwen")), "{wrong}");
        }
        assert!(!judged(whole("the cat", "other")) && !judged("{}".to_owned()));
        let chunk = |content: &str| {
            format!("data: {}\n\n", json!({"choices": [{"delta": {"content": content}}], "model": "qwen"}))
        };
        let stream = [chunk(""), chunk("the"), chunk(" cat"), "data: [DONE]\n\n".to_owned()].concat();
        assert!(truth.differs(&expected, stream.as_bytes(), true).is_ok());
        let shorter = [chunk("the"), "data: [DONE]\n\n".to_owned()].concat();
        assert!(truth.differs(&expected, shorter.as_bytes(), true).is_err());
    }
}

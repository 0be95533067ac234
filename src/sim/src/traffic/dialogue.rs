//! A session of [`crate::workload`] as a chat: spans become messages. No clock and no I/O.

use serde_json::{Value, json};

use super::sessions::Message;
use super::words::Words;
use crate::workload::{Role, Span, Turn};

/// All that was said in a session.
#[derive(Debug)]
pub(super) struct Dialogue {
    seed: u64,
    tools: Vec<Value>,
    messages: Vec<Message>,
}

impl Dialogue {
    /// Nothing was said yet. Another seed says the same spans in other words.
    pub(super) fn new(seed: u64) -> Dialogue {
        Dialogue { seed, tools: Vec::new(), messages: Vec::new() }
    }

    /// Adds what a turn adds, a message a span.
    pub(super) fn add(&mut self, spans: &[Span]) {
        for span in spans {
            let content = self.text(span);
            let role = match span.role {
                Role::Tools => {
                    let name = format!("tool_{}", self.tools.len() + 1);
                    let function = json!({"name": name, "description": content});
                    self.tools.push(json!({"type": "function", "function": function}));
                    continue;
                }
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                Role::Tool => "tool",
            };
            self.messages.push(Message { role, content });
        }
    }

    /// Adds the answer to a turn. Without one the session goes on with the workload's own, so that prompts
    /// keep their lengths.
    pub(super) fn answered(&mut self, turn: &Turn, answer: Option<String>) {
        let own = Span { name: turn.answer, tokens: turn.output_tokens, role: Role::Assistant };
        let content = answer.unwrap_or_else(|| self.text(&own));
        self.messages.push(Message { role: "assistant", content });
    }

    /// All messages so far.
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The tools, as the API wants them.
    pub(super) fn tools(&self) -> &[Value] {
        &self.tools
    }

    /// A word is a token to every server, unlike the letters of a fleet's texts: prompts have the lengths
    /// that the workload's rate is made for. Words of a name come in the same order, so that equal names
    /// share a prefix.
    fn text(&self, span: &Span) -> String {
        let mut text = String::new();
        Words::new(span.name, self.seed).append(&mut text, span.tokens);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: u64, tokens: u32, role: Role) -> Span {
        Span { name, tokens, role }
    }

    fn turn(adds: Vec<Span>) -> Turn {
        Turn { think: 0.0, adds, output_tokens: 7, answer: 99 }
    }

    #[test]
    fn equal_names_share_their_text_and_other_seeds_say_it_otherwise() {
        let text = |name, tokens, seed| Dialogue::new(seed).text(&span(name, tokens, Role::User));
        let long = text(7, 1000, 0);
        assert_eq!(long.split(' ').count(), 1000);
        assert!(long.starts_with(&text(7, 100, 0)));
        assert!(!long.starts_with(&text(8, 10, 0)));
        assert!(!long.starts_with(&text(7, 10, 1)));
    }

    #[test]
    fn a_dialogue_grows_and_keeps_what_was_said() {
        let mut dialogue = Dialogue::new(0);
        dialogue.add(&[span(1, 50, Role::Tools), span(2, 20, Role::System), span(3, 5, Role::User)]);
        let first = dialogue.messages().to_vec();
        assert_eq!(first.iter().map(|message| message.role).collect::<Vec<_>>(), ["system", "user"]);
        let description = dialogue.tools()[0]["function"]["description"].as_str().unwrap();
        assert_eq!(description.split(' ').count(), 50);

        dialogue.answered(&turn(Vec::new()), Some("so it is".to_owned()));
        dialogue.add(&[span(4, 9, Role::Tool)]);
        dialogue.answered(&turn(Vec::new()), None);
        assert!(dialogue.messages().starts_with(&first));
        let rest: Vec<(&str, usize)> = dialogue.messages()[2..]
            .iter()
            .map(|message| (message.role, message.content.split(' ').count()))
            .collect();
        assert_eq!(rest, [("assistant", 3), ("tool", 9), ("assistant", 7)]);
        assert_eq!(dialogue.messages()[2].content, "so it is");
    }
}

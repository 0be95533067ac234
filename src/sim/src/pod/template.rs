//! The prompt of a chat, in the order of vLLM's chat templates: tools, then role and content of each message.

use serde::Deserialize;
use serde_json::Value;

use super::json::canonical;
use super::tokens::{END, START, by_id, tokenize};
use crate::engine::Chain;

/// Clients of Anthropic's API put a line with another value in each request first in `system`; vLLM leaves it
/// out.
const ATTRIBUTION: &str = "x-anthropic-billing-header:";

/// One message as any of the chat APIs has it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub(super) role: String,
    #[serde(default)]
    pub(super) content: Option<Value>,
    #[serde(default)]
    pub(super) tool_calls: Option<Value>,
}

impl Message {
    /// A message without tool calls.
    pub(super) fn new(role: &str, content: Value) -> Message {
        Message { role: role.to_owned(), content: Some(content), tool_calls: None }
    }
}

/// A chat's prompt, appended to `chain`.
pub(super) fn chat_prompt(mut chain: Chain, tools: Option<&Value>, messages: &[Message]) -> Chain {
    push_tools(&mut chain, tools);
    messages.iter().for_each(|message| push_message(&mut chain, message));
    push_generation(&mut chain);
    chain
}

/// `system` of Anthropic's API as a message, without attribution lines.
pub(super) fn system_message(system: Value) -> Message {
    let attribution = |part: &Value| {
        part.get("text").and_then(Value::as_str).is_some_and(|text| text.starts_with(ATTRIBUTION))
    };
    let system = match system {
        Value::Array(parts) => parts.into_iter().filter(|part| !attribution(part)).collect(),
        other => other,
    };
    Message::new("system", system)
}

/// Appends the tools, if there are any: their spelling does not matter.
fn push_tools(chain: &mut Chain, tools: Option<&Value>) {
    let none = |tools: &Value| tools.is_null() || tools.as_array().is_some_and(Vec::is_empty);
    if let Some(tools) = tools.filter(|tools| !none(tools)) {
        chain.push_token(START);
        push_text(chain, "tools");
        push_text(chain, &canonical(tools));
        chain.push_token(END);
    }
}

/// Appends one message.
fn push_message(chain: &mut Chain, message: &Message) {
    chain.push_token(START);
    push_text(chain, &message.role);
    chain.push_token(START);
    if let Some(content) = &message.content {
        push_content(chain, content);
    }
    if let Some(calls) = message.tool_calls.as_ref().filter(|calls| !calls.is_null()) {
        push_text(chain, &canonical(calls));
    }
    chain.push_token(END);
}

/// Opens the assistant's next message, which the answer then fills.
fn push_generation(chain: &mut Chain) {
    chain.push_token(START);
    push_text(chain, "assistant");
    chain.push_token(START);
}

/// Appends a content: a string, a list of parts, or nothing. A part without text (an image, a tool's result)
/// counts as the JSON it is.
fn push_content(chain: &mut Chain, content: &Value) {
    match content {
        Value::Null => {}
        Value::String(text) => push_text(chain, text),
        Value::Array(parts) => {
            for part in parts {
                match part.get("text").and_then(Value::as_str) {
                    Some(text) => push_text(chain, text),
                    None => push_text(chain, &canonical(part)),
                }
            }
        }
        other => push_text(chain, &canonical(other)),
    }
}

fn push_text(chain: &mut Chain, text: &str) {
    tokenize(text, |token| chain.push_token(token));
}

/// The prompts of `/v1/completions` and the inputs of `/v1/embeddings`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum PromptInput {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl PromptInput {
    /// One chain per prompt, each begun by `new`.
    pub(super) fn chains(&self, new: impl Fn() -> Chain) -> Vec<Chain> {
        let text = |text: &String| {
            let mut chain = new();
            push_text(&mut chain, text);
            chain
        };
        let ids = |ids: &Vec<u32>| {
            let mut chain = new();
            ids.iter().for_each(|&id| chain.push_token(by_id(id)));
            chain
        };
        match self {
            PromptInput::Text(one) => vec![text(one)],
            PromptInput::Texts(all) => all.iter().map(text).collect(),
            PromptInput::Ids(one) => vec![ids(one)],
            PromptInput::IdLists(all) => all.iter().map(ids).collect(),
        }
    }
}

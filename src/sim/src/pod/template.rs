//! The prompt of a chat, in the order of vLLM's chat templates: tools, then role and content of each message.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::tokens::{END, START, by_id, tokenize};
use crate::engine::Chain;

/// One message as any of the chat APIs has it.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    pub(super) role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<&'a RawValue>,
}

/// Part of a message's content. What has no text (images, tool results) counts as the JSON it is.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

/// A chat's prompt, appended to `chain`.
pub(super) fn chat_prompt(
    mut chain: Chain,
    tools: Option<&RawValue>,
    messages: &[Message<'_>],
) -> serde_json::Result<Chain> {
    push_tools(&mut chain, tools);
    for message in messages {
        push_message(&mut chain, message)?;
    }
    push_generation(&mut chain);
    Ok(chain)
}

/// Appends the tools, if there are any.
fn push_tools(chain: &mut Chain, tools: Option<&RawValue>) {
    if let Some(tools) = tools.filter(|tools| !matches!(tools.get(), "null" | "[]")) {
        chain.push_token(START);
        push_text(chain, "tools");
        push_text(chain, tools.get());
        chain.push_token(END);
    }
}

/// Appends one message.
fn push_message(chain: &mut Chain, message: &Message<'_>) -> serde_json::Result<()> {
    chain.push_token(START);
    push_text(chain, &message.role);
    chain.push_token(START);
    if let Some(content) = message.content {
        push_content(chain, content)?;
    }
    if let Some(calls) = message.tool_calls.filter(|calls| calls.get() != "null") {
        push_text(chain, calls.get());
    }
    chain.push_token(END);
    Ok(())
}

/// Opens the assistant's next message, which the answer then fills.
fn push_generation(chain: &mut Chain) {
    chain.push_token(START);
    push_text(chain, "assistant");
    chain.push_token(START);
}

/// Appends a content: a string, a list of parts, or nothing.
fn push_content(chain: &mut Chain, content: &RawValue) -> serde_json::Result<()> {
    let json = content.get();
    if json.starts_with('"') {
        push_text(chain, &serde_json::from_str::<Text<'_>>(json)?.0);
    } else if json.starts_with('[') {
        for raw in serde_json::from_str::<Vec<&RawValue>>(json)? {
            let part: Part<'_> = serde_json::from_str(raw.get())?;
            push_text(chain, part.text.as_deref().unwrap_or(raw.get()));
        }
    } else if json != "null" {
        push_text(chain, json);
    }
    Ok(())
}

/// A string that borrows from the body where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn push_text(chain: &mut Chain, text: &str) {
    tokenize(text, |token| chain.push_token(token));
}

/// The prompts of `/v1/completions` and the inputs of `/v1/embeddings`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl Prompts {
    /// One chain a prompt, each begun by `new`.
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
            Prompts::Text(one) => vec![text(one)],
            Prompts::Texts(all) => all.iter().map(text).collect(),
            Prompts::Ids(one) => vec![ids(one)],
            Prompts::IdLists(all) => all.iter().map(ids).collect(),
        }
    }
}

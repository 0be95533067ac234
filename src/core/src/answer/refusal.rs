//! The answers of the module itself to a client that is not served: errors in the form that OpenAI's clients
//! and vLLM's know.

use crate::request::json::push_character;

/// An error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// HTTP status.
    pub status: u32,
    /// vLLM's name for the kind of error.
    pub kind: &'a str,
    /// What is wrong and how to fix it.
    pub message: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
}

impl Refusal<'_> {
    /// The body of the answer, JSON.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(b"{\"error\":{\"message\":");
        push_text(&mut body, self.message);
        body.extend_from_slice(b",\"type\":");
        push_text(&mut body, self.kind);
        body.extend_from_slice(b",\"param\":");
        match self.param {
            Some(param) => push_text(&mut body, param),
            None => body.extend_from_slice(b"null"),
        }
        body.extend_from_slice(b",\"code\":");
        body.extend_from_slice(self.status.to_string().as_bytes());
        body.extend_from_slice(b"}}");
        body
    }
}

/// Appends a text as JSON writes it.
fn push_text(to: &mut Vec<u8>, text: &str) {
    to.push(b'"');
    text.chars().for_each(|character| push_character(to, character));
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_vllm() {
        let refusal =
            Refusal { status: 404, kind: "NotFoundError", message: "no \"x\"", param: Some("model") };
        let recorded: serde_json::Value = serde_json::from_slice(include_bytes!(
            "../../../../tests/fixtures/vllm-0.32/error-404-model.json"
        ))
        .unwrap();
        let ours: serde_json::Value = serde_json::from_slice(&refusal.body()).unwrap();
        let keys =
            |v: &serde_json::Value| v["error"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&recorded));
        assert_eq!(
            (&ours["error"]["type"], &ours["error"]["code"]),
            (&recorded["error"]["type"], &recorded["error"]["code"])
        );
        assert_eq!(ours["error"]["message"], "no \"x\"");
    }

    #[test]
    fn any_text_is_json() {
        let message: String = (0..0x250).filter_map(char::from_u32).chain("\u{2028}😀".chars()).collect();
        for param in [None, Some("a\"b")] {
            let body = Refusal { status: 400, kind: "K", message: &message, param }.body();
            let error = &serde_json::from_slice::<serde_json::Value>(&body).unwrap()["error"];
            assert_eq!((error["message"].as_str(), error["param"].as_str()), (Some(&*message), param));
        }
    }
}

//! The answers of the module itself to a client that is not served: errors in the form that OpenAI's clients
//! and vLLM's know.

use serde::Serialize;

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

#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u32,
}

impl Refusal<'_> {
    /// The body of the answer, JSON.
    pub fn body(&self) -> Vec<u8> {
        let error = Body { message: self.message, r#type: self.kind, param: self.param, code: self.status };
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(&Envelope { error }).unwrap_or_default()
    }
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
}

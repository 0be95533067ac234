//! The text of a span: follows from its name alone, so that equal names share a prefix byte by byte.

use std::collections::HashMap;
use std::sync::Arc;

use warmpath::request::blocks::mix;

use crate::workload::Span;

/// Texts that are kept, in bytes; beyond it all are made anew, which changes nothing but time.
const KEPT: usize = 64 << 20;

/// Makes texts, and keeps them while they are small enough together.
#[derive(Debug, Default)]
pub struct Texts {
    kept: HashMap<(u64, u32), Arc<str>>,
    bytes: usize,
}

impl Texts {
    /// The text of a span.
    pub fn get(&mut self, span: &Span) -> Arc<str> {
        if let Some(text) = self.kept.get(&(span.name, span.tokens)) {
            return text.clone();
        }
        let text: Arc<str> = make(span).into();
        if self.bytes + text.len() > KEPT {
            self.kept.clear();
            self.bytes = 0;
        }
        self.bytes += text.len();
        self.kept.insert((span.name, span.tokens), text.clone());
        text
    }
}

/// Eight letters from each draw. A token is 3.5 to 4.5 bytes, differently for each text: prose, code and
/// numbers differ that much, and no router may count on 4.
fn make(span: &Span) -> String {
    let bytes_a_token = 3.5 + (mix(span.name) % 1024) as f64 / 1023.0;
    let bytes = (f64::from(span.tokens) * bytes_a_token) as usize;
    let mut text = Vec::with_capacity(bytes + 8);
    let mut state = span.name;
    while text.len() < bytes {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        text.extend(((state & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161).to_le_bytes());
    }
    text.truncate(bytes);
    // Letters a to p only.
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Role;

    #[test]
    fn equal_names_share_a_prefix_and_lengths_vary_with_the_name() {
        let span = |name, tokens| Span { name, tokens, role: Role::User };
        let (short, long) = (make(&span(7, 100)), make(&span(7, 1000)));
        assert!(long.starts_with(&short));
        assert!(!make(&span(8, 1000)).starts_with(&short));
        for name in 0..100 {
            let length = make(&span(name, 1000)).len();
            assert!((3500..=4500).contains(&length), "{length}");
        }
    }
}

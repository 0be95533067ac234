//! What is wrong with a document of settings.

use std::fmt;

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The key, with dots and places in lists, like `models[0].name`; empty for the document as a whole.
    pub key: String,
    /// What is wrong and how to fix it.
    pub reason: String,
}

impl SettingError {
    /// An error about `key`.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> SettingError {
        SettingError { key: key.into(), reason: reason.into() }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "`{}` {}", self.key, self.reason)
        }
    }
}

impl std::error::Error for SettingError {}

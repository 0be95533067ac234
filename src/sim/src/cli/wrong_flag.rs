//! Why flags cannot be what was meant.

/// A flag whose value clap alone cannot judge, with what it must be.
#[derive(Debug)]
pub struct WrongFlag(pub String);

impl std::fmt::Display for WrongFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongFlag {}

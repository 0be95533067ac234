//! Calls through Envoy whose answers have not come yet.

/// What is to be done with the answer of each call. A list: there are few at a time, and one more map would
/// make the module larger.
#[derive(Debug)]
pub struct Calls<T>(Vec<(u32, T)>);

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Calls(Vec::new())
    }
}

impl<T> Calls<T> {
    /// A call with this number has been made.
    pub fn made(&mut self, call: u32, what: T) {
        self.0.push((call, what));
    }

    /// The answer of a call has come; `None` if it is no call of this list.
    pub fn answered(&mut self, call: u32) -> Option<T> {
        let at = self.0.iter().position(|&(number, _)| number == call)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Whether all answers have come.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

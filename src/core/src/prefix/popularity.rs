//! How large a share of recent prompts starts with a prefix.

/// About how many prompts back popularity looks: a prompt counts less with each one after it.
const POPULARITY_WINDOW: f32 = 200.0;
/// Prompts of a prefix that are no evidence yet: the first one says nothing about others.
const POPULARITY_DOUBT: f32 = 1.0;
/// Prompts that went through a node, older ones counting less.
///
/// A prompt that goes on where the last one ended is the same conversation, and does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Popularity {
    prompts: f32,
    /// The index clock at which `prompts` was right.
    counted_at: u32,
}

impl Popularity {
    /// No prompt so far.
    pub fn none_at(clock: u32) -> Popularity {
        Popularity { prompts: 0.0, counted_at: clock }
    }

    /// A prompt goes through the node at `clock`.
    pub fn count(&mut self, clock: u32) {
        *self = Popularity { prompts: self.prompts_at(clock) + 1.0, counted_at: clock };
    }

    fn prompts_at(self, clock: u32) -> f32 {
        self.prompts * (-(clock.wrapping_sub(self.counted_at) as f32) / POPULARITY_WINDOW).exp()
    }

    /// Share of all recent prompts, 0 to 1.
    pub fn share_at(self, clock: u32) -> f32 {
        let all = POPULARITY_WINDOW.min(clock as f32) + POPULARITY_DOUBT;
        (self.prompts_at(clock) - POPULARITY_DOUBT).max(0.0) / all
    }
}

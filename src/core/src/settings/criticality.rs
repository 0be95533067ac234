//! The classes of requests that settings tell apart.

/// How much a request matters when not all can be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Criticality {
    /// Refused when the pool is saturated.
    Sheddable,
    /// Served in its turn.
    #[default]
    Standard,
    /// Served in its turn; room is kept for it.
    Critical,
}

impl Criticality {
    /// As settings spell them.
    pub const WORDS: [(&str, Criticality); 3] = [
        ("Critical", Criticality::Critical),
        ("Standard", Criticality::Standard),
        ("Sheddable", Criticality::Sheddable),
    ];

    /// The priority for vLLM's scheduler, the lower the sooner.
    pub fn priority(self) -> i32 {
        match self {
            Criticality::Critical => -1,
            Criticality::Standard => 0,
            Criticality::Sheddable => 1,
        }
    }

    /// That of a request with this priority of InferenceObjective.
    pub fn of_priority(priority: i32) -> Criticality {
        match priority {
            ..0 => Criticality::Sheddable,
            0 => Criticality::Standard,
            1.. => Criticality::Critical,
        }
    }
}

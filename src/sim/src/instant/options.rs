//! The flags of the instant backend.

/// The flags of `warmpath-sim instant`.
#[derive(Clone, Debug, clap::Args)]
pub struct InstantOptions {
    /// Ports on 127.0.0.1, one for each pod; 0 lets the system choose
    #[arg(
        long = "port",
        visible_alias = "ports",
        value_name = "N,...",
        value_delimiter = ',',
        required = true
    )]
    pub ports: Vec<u16>,
    /// Answer as a stream of this many events instead of as a whole
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub events: usize,
    /// Time between two events of a stream, in microseconds
    #[arg(long, value_name = "N", default_value_t = 0, requires = "events")]
    pub event_gap_us: u64,
    /// Size of the KV cache that the metrics page tells, in tokens; so large that only a gateway's own bounds
    /// matter
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    pub cache_tokens: u64,
}

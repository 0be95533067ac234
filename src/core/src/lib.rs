//! Every decision of Warmpath, and nothing else: no clock, no I/O, no log, no host call, no panic. Time and
//! chance come in as arguments, so the same code runs in Envoy, in tests and in a fleet on virtual time.
//!
//! The path of a request: [`request`] (bytes -> model, prompt parts -> canonical bytes in the order that
//! vLLM's chat template sees -> chained block hashes) -> [`prefix`] (which pod holds which block) ->
//! [`account`] (work in flight on every pod, all workers) -> [`decide`] (seconds that each pod will need; the
//! best pod and its runners-up) -> [`answer`] (what the answer reports) -> [`account`] and [`prefix`]
//! (release, repair, learn). [`router`] tells that story in one place.
//!
//! The path of a metric: [`scrape`] (which pod is due, Prometheus text, vLLM's names) -> [`shared`]
//! (versioned bytes in shared data) -> the router's snapshot. [`collector`] tells that one.
//!
//! The path of a pod: [`discovery`] (the clusters that requests go to -> Envoy's admin page -> hosts) ->
//! [`collector`].
//!
//! [`monitor`] is what people want to know of all that.
//!
//! [`config`] is what a user may set, [`settings`] the part of it that may change while requests run,
//! [`units`] what all rooms count in.
//!
//! # Where to change what
//!
//! | to change | open |
//! | --- | --- |
//! | which metric of vLLM's page is read, or a new name for it | `scrape/vllm/ranks.rs` |
//! | a term of the cost, or its constant | `decide/cost.rs` |
//! | who is a candidate, and in which order of rank | `decide/candidates.rs`, `decide/pick.rs` |
//! | how long a pod is left alone, and when it is probed | `account/pod_health.rs` |
//! | how fast a pod is taken to be | `account/rate.rs` |
//! | what is an image or another medium, and how much it counts | `request/media.rs`, `request/prompt.rs` |
//! | which fields of a body belong to the prompt, and in which order | `request/fields.rs`, `request/prompt.rs` |
//! | where a block ends, and what its hash covers | `request/blocks.rs` |
//! | what happens at a lost compare-and-swap | `account/transaction.rs` |
//! | what an answer means: a failure, a refusal, a full pod | `answer/verdict.rs` |
//! | which event of a stream is the first token | `answer/first_token.rs` |
//! | a setting that may change while requests run | `settings.rs` |
//! | how long the index believes that a pod holds a block | `prefix/index.rs`, `prefix/holdings.rs` |
//! | the bytes that workers share | the `codec` of each table in [`shared`], and `account/ledger/layout.rs` |

pub mod account;
pub mod answer;
pub mod collector;
pub mod config;
pub mod decide;
pub mod discovery;
pub mod monitor;
pub mod prefix;
pub mod request;
pub mod router;
pub mod scrape;
pub mod settings;
pub mod shared;
pub mod units;

pub use units::{Bytes, DEFAULT_BYTES_PER_TOKEN, MILLISECOND, Micros, ModelId, Random, SECOND, Slot, Tokens};

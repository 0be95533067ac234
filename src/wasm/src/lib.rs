//! Warmpath as a Proxy-Wasm module: Envoy's callbacks become core calls, core answers become host calls.
//!
//! The plugin's `root_id` names the role of a VM: `router` is the HTTP filter, `answer` the upstream HTTP
//! filter of the clusters that it names pods to, `collector` the singleton service that keeps the table of
//! pods and their load, `monitor` and `console` the filters that answer with the metrics page and the
//! console. Only [`host`] makes host calls.

mod abi;
mod answer_filter;
mod answer_hint;
mod answer_role;
mod attempts;
#[cfg(feature = "blind")]
mod blind;
mod callbacks;
mod calls;
mod collector_driver;
mod console_page;
mod decision_log;
mod decision_watch;
mod discovery_driver;
mod filter;
mod host;
mod left_alone_log;
mod log_batch;
mod log_once;
mod metrics;
mod metrics_page;
mod model_lists;
mod monitor_role;
mod observations;
mod pod_changes;
mod profile;
mod receipt;
mod root;
mod round_trips;
mod router_role;
mod sent;
mod settings_driver;
mod settings_in_force;
mod start;
mod stop_iteration;
mod stream;
#[cfg(feature = "trap")]
mod trap;
mod worker;

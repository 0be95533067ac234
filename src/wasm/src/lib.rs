//! Warmpath as a Proxy-Wasm module: Envoy's callbacks become core calls, core answers become host calls.
//!
//! The plugin's `root_id` names the role of a VM: `router` is the HTTP filter, `answer` the upstream HTTP filter of the clusters
//! that it names pods to, `collector` the singleton service that keeps the table of pods and their load, `monitor` and
//! `console` the filters that answer with the metrics page and the console. Only [`host`] makes host calls.

#![expect(missing_docs, reason = "the SDK's macro exports a function without a docstring")]

mod answer_filter;
mod answer_role;
mod callbacks;
mod calls;
mod clock;
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
mod stream_property;
#[cfg(feature = "trap")]
mod trap;
mod worker;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    // Envoy drops what is below its own level; see `host::log_level`.
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|id| Box::new(root::Root::new(id)));
}}

//! Warmpath as a Proxy-Wasm module: Envoy's callbacks become core calls, core answers become host calls.
//!
//! One module, two roles, told apart by the plugin's `root_id`: `router` is the HTTP filter, `collector` the singleton
//! service that keeps the table of pod load. Only [`host`] names a host call.

#![expect(missing_docs, reason = "the SDK's macro exports a function without a docstring")]

mod collect;
mod filter;
mod host;
mod laps;
mod lines;
mod metrics;
mod root;
#[cfg(feature = "trap")]
mod trap;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    // The host drops what is below its own level; see `host::logs`.
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}

//! A simulated pod over HTTP: engines in real time, behind the endpoints, stream forms and metrics that a
//! router sees of vLLM 0.32.
//!
//! A request's way: `server` takes the connection and applies faults, `routes` finds the handler, `api` reads
//! the body (`json`) and finds the model (`models`), one module per API (`chat`, `completions`, `responses`,
//! `messages`, `embeddings`) makes the prompt (`template`, `tokens`) and writes the answer, `driver` hands it
//! to `engines`, behind the limits of `admission` and the places for adapters, `live` counts what a request
//! did, `generation` is what a handler holds of it, and `stream` turns its tokens into server-sent events.
//! `metrics` makes the page; `operator` is for those who put a pod to sleep or break it on purpose.

mod admission;
mod api;
mod chat;
mod clock;
mod completions;
mod config;
mod driver;
mod embeddings;
mod engines;
mod error;
mod faults;
mod generation;
mod idle;
mod ids;
mod instant;
mod json;
mod live;
mod messages;
mod metrics;
mod models;
mod operator;
mod responses;
mod routes;
mod server;
mod store;
mod stream;
mod template;
mod tokens;

pub use config::{ConfigError, PodConfig};
pub use faults::Faults;
pub use server::{serve, serve_until};

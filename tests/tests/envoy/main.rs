//! Warmpath in a real Envoy, with the configuration, the protocols and the faults that users have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod adapters;
mod answer;
mod attempts;
mod bodies;
mod calls;
mod cases;
mod console;
mod cooldown;
mod criticality;
mod data_parallel;
mod discovery;
mod docs;
mod endings;
mod ext_proc;
mod fair_shares;
mod faults;
mod faults_under_load;
mod full;
mod hostile;
mod limits;
mod metrics_page;
mod model_names;
mod models;
mod odd_answers;
mod overload;
mod receipts;
mod refusals;
mod reload;
mod routing;
mod scrapes;
mod scripts;
mod security;
mod settings;
mod settings_page;
mod shared_state;
mod stale;
mod start;
mod steering;
mod stored_responses;
mod streaming;
mod traps;

/// The simulator as cargo built it for these tests.
const SIMULATOR: &str = env!("CARGO_BIN_EXE_sim");

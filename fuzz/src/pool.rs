//! A small pool for the targets that need one.

use warmpath::Micros;
use warmpath::account::ledger::Ledger;
use warmpath::collector::Collector;
use warmpath::config::Config;
use warmpath::shared::store::{Keys, Map, SharedData};

/// The time in all targets.
pub const NOW: Micros = Micros::from_seconds(1_795_224_676);

/// A configuration with so many pods.
pub fn config_of(pods: u16) -> Config {
    let pods: Vec<String> = (0..pods).map(|n| format!("\"10.0.0.{n}:8000\"")).collect();
    let json = format!("{{\"pods\":[{}],\"index\":{{\"log_segments\":2,\"max_mib\":1}}}}", pods.join(","));
    Config::parse(json.as_bytes()).unwrap()
}

/// Publishes the pods of a configuration, before any scrape.
pub fn publish(config: &Config, shared: &mut Map) {
    Collector::new(config, shared, 1, NOW).publish(shared, NOW);
}

/// The ledger in shared data.
pub fn ledger_in(config: &Config, shared: &Map) -> Ledger {
    let key = Keys::of(&config.pool, 2).ledger;
    Ledger::decode(shared.get(&key).unwrap().0).unwrap()
}

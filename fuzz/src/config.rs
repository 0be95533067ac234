//! Plugin configurations.

use warmpath::config::Config;
use warmpath::router::Router;
use warmpath::shared::pod_table::MAX_PODS;
use warmpath::shared::store::Map;

use crate::pool::publish;

/// A plugin configuration. Every accepted value is within its range.
pub fn config(bytes: &[u8]) {
    let config = match Config::parse(bytes) {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() > 10, "{said}");
            return;
        }
    };
    assert_eq!(Config::parse(bytes).as_ref(), Ok(&config));
    assert!((1..=64).contains(&config.pool.len()));
    // It becomes a part of metric names.
    assert!(config.pool.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    for pod in config.pods.iter().flatten() {
        let address: std::net::SocketAddr = pod.parse().unwrap();
        assert_ne!(address.port(), 0);
        assert!(pod.len() <= 255, "the table has one byte for its length");
    }
    assert!(config.pods.as_ref().is_none_or(|pods| pods.len() <= MAX_PODS));
    assert!(config.scrape.interval <= config.scrape.idle_interval);

    let mut map = Map::default();
    publish(&config, &mut map);
    let mut router = Router::new(&config, 1);
    router.refresh(&map).unwrap();
    assert_eq!(router.table().live().count(), config.pods.map_or(0, |pods| pods.len()));
}

//! Metrics pages of pods.

use warmpath::collector::{Collector, DueScrape};
use warmpath::router::{RouteBy, Router};
use warmpath::scrape::{exposition, vllm};
use warmpath::shared::store::Map;
use warmpath::{Micros, SECOND, Slot};

use crate::pool::{NOW, config_of};

/// A pod's metrics page. With any page, the pod table stays readable and requests find a pod.
pub fn metrics(page: &[u8]) {
    exposition::samples(
        page,
        |_| true,
        |sample| {
            assert!(!sample.name.is_empty() || page.iter().any(|b| b"{ \t".contains(b)));
            for label in ["engine", "", "block_size", "\\"] {
                sample.label(label);
            }
        },
    );
    if let Ok(load) = vllm::load(page) {
        for amount in [load.running, load.waiting, load.kv_usage] {
            assert!(amount.is_finite() && amount >= 0.0, "{load:?}");
        }
        assert!(load.kv_usage <= 1.0);
        assert!(load.started.is_none_or(f64::is_finite));
    }

    let mut shared = Map::default();
    let config = config_of(3);
    let mut router = Router::new(&config, 1);
    let mut collector = Collector::new(&config, &shared, 1, NOW);
    let sound = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n";
    for round in 0..3 {
        let now = NOW + round * 20 * SECOND;
        for due in collector.due(&shared, now) {
            let DueScrape { slot, .. } = due;
            collector.take(&due, if slot == Slot(1) { page } else { sound }, &mut shared, now);
            collector.done(&due, Some(Micros(10)), now);
        }
        assert!(collector.publish(&mut shared, now).is_some());
        router.refresh(&shared).unwrap();
        assert_eq!(router.table(), collector.table());
        drop(router.decide(RouteBy::Load, &mut shared, now).unwrap());
        assert!(router.candidates().iter().all(|s| s.terms.seconds.is_finite()), "{:?}", router.candidates());
    }
}

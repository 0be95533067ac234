//! What the module says of itself: the line at its start, its version, and the metrics that it has.

use std::collections::BTreeSet;

use warmpath_tests::{Envoy, TestPod, repository, until};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[tokio::test]
async fn each_role_logs_its_start_once_however_many_vms_envoy_configures() {
    let pods = TestPod::several(3).await;
    let mut envoy = Envoy::of(&pods).concurrency(3).reloadable(600).start().await;
    let lines = |envoy: &Envoy, role: &str, what: &str| {
        let line = format!("warmpath {VERSION}: {role}, pool default, {what}");
        envoy.log().lines().filter(|found| found.ends_with(&line)).count()
    };
    envoy.logs(&["router, pool default"]).await;
    assert_eq!(lines(&envoy, "router", "3 pods, PREFIX_CACHE"), 1);
    assert_eq!(lines(&envoy, "collector", "3 pods, PREFIX_CACHE"), 1);

    envoy.reload(|settings| settings["strategy"] = "LOAD_ONLY".into()).await;
    until("the new strategy was logged", async || {
        (lines(&envoy, "router", "3 pods, LOAD_ONLY") > 0).then_some(())
    })
    .await;
    assert_eq!(lines(&envoy, "router", "3 pods, LOAD_ONLY"), 1);
    assert_eq!(lines(&envoy, "router", "3 pods, PREFIX_CACHE"), 1);
}

/// The names in the table of src/wasm/src/metrics.rs: kind, name, and the help text behind it. Those of
/// histograms and of single models are not among them: they are defined when they are needed.
fn table() -> BTreeSet<(String, String)> {
    let source = std::fs::read_to_string(repository().join("src/wasm/src/metrics.rs")).unwrap();
    let rows = source.lines().filter_map(|line| {
        let mut parts = line.trim().strip_suffix("\";")?.split('"');
        let kind = parts.next()?.split_whitespace().nth(1)?.to_owned();
        if kind == "histogram" || line.contains(", model }") {
            return None;
        }
        let name = format!("warmpath_{}", parts.next()?);
        let help = parts.next_back()?;
        assert!(help.len() > 4 && help.ends_with('.'), "{name} has the help text {help:?}");
        Some((kind, name))
    });
    rows.collect()
}

#[tokio::test]
async fn the_metrics_of_a_running_envoy_are_those_of_the_table() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let page = envoy.prometheus().await;
    let build: Vec<&str> = page.lines().filter(|line| line.starts_with("warmpath_build_info{")).collect();
    assert_eq!(build, [format!("warmpath_build_info{{pool=\"default\",version=\"{VERSION}\"}} 1")]);
    let found: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        // Envoy 1.37 puts this before those of the answer filter.
        .map(|(name, kind)| (name.strip_prefix("envoy_cluster_wasmcustom_").unwrap_or(name), kind))
        .filter_map(|(name, kind)| Some((name.strip_prefix("warmpath_")?, kind)))
        // The counters of a histogram.
        .filter(|(name, _)| !name.ends_with("_bucket") && !name.ends_with("_sum"))
        .map(|(name, kind)| (kind.to_owned(), format!("warmpath_{name}")))
        .collect();
    assert_eq!(found, table());
}

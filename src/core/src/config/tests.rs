use super::*;
use crate::MILLISECOND;

fn error(json: &str) -> String {
    Config::parse(json.as_bytes()).unwrap_err().to_string()
}

#[test]
fn what_a_page_does_not_tell_or_give_to_everybody_can_be_said() {
    let config = Config::parse(
        br#"{"scrape":{"port":9090,"authorization":"Bearer abc"},"index":{"pod_tokens":2000000}}"#,
    )
    .unwrap();
    assert_eq!((config.scrape.port, config.index.pod_tokens), (Some(9090), Some(2_000_000)));
    assert_eq!(config.scrape.authorization, Some(Secret("Bearer abc".into())));
    assert!(!format!("{config:?}").contains("Bearer"));
    assert!(error(r#"{"scrape":{"authorization":"a\nb"}}"#).contains("`scrape.authorization` is no value"));
    assert!(error(r#"{"scrape":{"port":0}}"#).contains("`scrape.port`"));
}

#[test]
fn all_keys_have_defaults_but_pods() {
    let config = Config::parse(br#"{"pods":["127.0.0.1:8000","[::1]:8001"]}"#).unwrap();
    assert_eq!(config.pods.unwrap(), ["127.0.0.1:8000", "[::1]:8001"]);
    assert_eq!(config.settings, PoolSettings::default());
    assert_eq!(config.settings_from, SettingsFrom::Configuration);
    assert_eq!(config.scrape.interval, 100 * MILLISECOND);
}

#[test]
fn a_collector_needs_pods_and_a_router_does_not() {
    let needs = |json: &str| Config::parse(json.as_bytes()).unwrap().pods_to_scrape().map(<[_]>::len);
    assert_eq!(needs(r#"{"pods":["127.0.0.1:8000"]}"#), Ok(1));
    for (json, found) in [("{}", "is missing"), (r#"{"pods":[]}"#, "is empty")] {
        let error = needs(json).unwrap_err().to_string();
        assert_eq!(error, format!("`pods` {found}; list the pods' addresses, like [\"10.0.0.4:8000\"]"));
    }
}

#[test]
fn pods_are_listed_or_discovered() {
    let config = Config::parse(br#"{"destination":"list","discovery":{}}"#).unwrap();
    let by = DiscoveryBy { cluster: "prometheus_stats".into(), pods_of: None, interval: 1000 * MILLISECOND };
    assert_eq!((config.destination, config.discovery.as_ref()), (Destination::List, Some(&by)));
    assert_eq!(config.pods_to_scrape(), Ok(&[][..]), "they are found later");
    let with = |more: &str| error(&format!(r#"{{"destination":"list","discovery":{{{more}}}}}"#));
    assert!(with(r#""cluster":"" "#).contains("`discovery.cluster` is empty; name"));
    assert!(with(r#""interval_ms":5"#).contains("`discovery.interval_ms` is 5; use 100 to 60000"));
    assert!(
        with(r#""clusters":[]"#)
            .contains("`discovery.clusters` is no setting; there are cluster, pods_of, interval_ms")
    );
    let both = error(r#"{"destination":"list","discovery":{},"pods":["1.2.3.4:5"]}"#);
    assert!(both.contains("`discovery` finds the pods, and `pods` lists them"));
    assert!(error(r#"{"discovery":{}}"#).contains("`destination` is \"headers\"; write \"list\""));
    let named = Config::parse(br#"{"discovery":{"pods_of":"vllm"}}"#).unwrap();
    assert_eq!(
        (named.destination, named.discovery.and_then(|by| by.pods_of)),
        (Destination::Headers, Some("vllm".into()))
    );
    assert!(with(r#""pods_of":"vllm""#).contains("leave `discovery.pods_of` out"));
    assert!(error(r#"{"discovery":{"pods_of":""}}"#).contains("`discovery.pods_of` is empty"));
    assert!(error(r#"{"destination":"both"}"#).contains("use \"headers\" or \"list\""));
}

#[test]
fn settings_come_from_a_route_or_a_page() {
    let from = |json: &str| Config::parse(json.as_bytes()).unwrap().settings_from;
    assert_eq!(from(r#"{"settings":"route"}"#), SettingsFrom::Route);
    let page = SettingsSource {
        cluster: "c".into(),
        host: "files.example.com".into(),
        path: "/a?b".into(),
        interval: 5000 * MILLISECOND,
    };
    let json = r#"{"settings":{"cluster":"c","host":"files.example.com","path":"/a?b","interval_ms":5000}}"#;
    assert_eq!(from(json), SettingsFrom::Page(page));
    let SettingsFrom::Page(SettingsSource { cluster, path, interval, .. }) = from(r#"{"settings":{}}"#)
    else {
        panic!()
    };
    assert_eq!((cluster.as_str(), path.as_str(), interval), ("warmpath-settings", "/", 2000 * MILLISECOND));
}

#[test]
fn a_slow_scrape_has_a_slower_idle_pace() {
    let scrape = Config::parse(br#"{"scrape":{"interval_ms":5000}}"#).unwrap().scrape;
    assert_eq!((scrape.interval, scrape.idle_interval), (5000 * MILLISECOND, 5000 * MILLISECOND));
}

#[test]
fn every_error_names_its_key() {
    assert!(error("{").starts_with("not valid JSON: error at line 1 column 2"));
    assert!(error(r#"{"podz":[]}"#).contains("`podz` is no setting; there are destination, pods, pool,"));
    assert!(error(r#"{"strategy":"FAST"}"#).contains("\"LOAD_ONLY\""));
    assert!(error(r#"{"pods":["vllm:8000"]}"#).contains("`pods` has \"vllm:8000\""));
    assert!(error(r#"{"pods":["1.2.3.4:0"]}"#).contains("port 0"));
    assert!(error(r#"{"pods":["1.2.3.4:5","1.2.3.4:5"]}"#).contains("twice"));
    assert!(error(r#"{"pool":"a b"}"#).contains("`pool`"));
    assert!(error(r#"{"scrape":{"interval_ms":1}}"#).contains("`scrape.interval_ms` is 1; use 10 to 60000"));
    assert!(error(r#"{"scrape":{"path":"metrics"}}"#).contains("`scrape.path`"));
    assert!(error(r#"{"index":{"max_mib":0}}"#).contains("`index.max_mib`"));
    assert!(error(r#"{"settings":{"path":"x"}}"#).contains("`settings.path` is \"x\"; start it with '/'"));
    assert!(error(r#"{"settings":{"host":"a b"}}"#).contains("`settings.host` is \"a b\""));
    assert!(error(r#"{"settings":{"interval_ms":1}}"#).contains("`settings.interval_ms` is 1; use 100"));
    assert!(error(r#"{"settings":{"url":"x"}}"#).contains("`settings.url` is no setting"));
    assert!(error(r#"{"settings":"file"}"#).contains("`settings` is \"file\"; use \"route\""));
}

//! The settings of a pool change while Envoy runs: no listener is touched, no stream is cut, and what is
//! known of the pods stays.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use warmpath_tests::{
    Answer, Envoy, EnvoyBuilder, Opened, Random, Request, Stream, TestPod, Traffic, command, until,
};

/// The routes of the routed port in a file that Envoy follows, with the settings in their metadata.
struct Routes {
    folder: TempDir,
    configuration: Value,
}

impl Routes {
    /// Moves the routes of `configuration` into a file.
    fn split(configuration: &mut Value) -> Routes {
        let listeners = configuration["static_resources"]["listeners"].as_array_mut().unwrap();
        let routed = listeners.iter_mut().find(|listener| listener["name"] == "routed").unwrap();
        let manager = routed["filter_chains"][0]["filters"][0]["typed_config"].as_object_mut().unwrap();
        let mut routes = manager.remove("route_config").unwrap();
        routes["@type"] = json!("type.googleapis.com/envoy.config.route.v3.RouteConfiguration");
        let folder = tempfile::tempdir().unwrap();
        let source = json!({"resource_api_version": "V3", "path_config_source": {"path": folder.path().join("routes.json")}});
        manager.insert("rds".into(), json!({"route_config_name": routes["name"], "config_source": source}));
        configuration["node"] = json!({"id": "test", "cluster": "test"});
        let routes = Routes { folder, configuration: routes };
        routes.write(&routes.configuration);
        routes
    }

    /// Puts `settings` into the metadata of every route.
    fn set(&self, settings: &Value) {
        let mut configuration = self.configuration.clone();
        for route in configuration["virtual_hosts"][0]["routes"].as_array_mut().unwrap() {
            route["metadata"] = json!({"filter_metadata": {"warmpath": settings}});
        }
        self.write(&configuration);
    }

    fn write(&self, configuration: &Value) {
        let file = |name: &str| -> PathBuf { self.folder.path().join(name) };
        std::fs::write(file("next.json"), json!({"resources": [configuration]}).to_string()).unwrap();
        // Envoy looks when a file is moved to this name.
        std::fs::rename(file("next.json"), file("routes.json")).unwrap();
    }
}

/// An Envoy whose settings come with the route.
fn by_route(pods: &[TestPod]) -> (EnvoyBuilder, std::sync::mpsc::Receiver<Routes>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let builder = Envoy::of(pods).switch("--json").log_level("info").edit(move |text| {
        let with =
            text.replace(r#"\"fail_open\": true,"#, r#"\"fail_open\": true, \"settings\": \"route\","#);
        assert_ne!(with, text);
        let mut configuration: Value = serde_json::from_str(&with).unwrap();
        sender.send(Routes::split(&mut configuration)).unwrap();
        configuration.to_string()
    });
    (builder, receiver)
}

/// A controller's document.
fn of_rule(strategy: &str) -> Value {
    json!({"cluster": "httproute/default/chat/rule/0", "pools": [{
        "group": "inference.networking.k8s.io", "pool": "default/pool", "strategy": strategy, "fail_open": true,
        "not_known_yet": [1, {"a": null}]}]})
}

/// A chat that is like no other number's.
pub fn chat(n: u64) -> Request {
    Request::chat(&Random::text(n, 300))
}

/// What a pod answers under load.
pub fn model() -> Answer {
    Answer::tokens(Duration::from_millis(20), Duration::from_millis(5), 6)
}

pub const BY_PREFIX: &str = "wasmcustom.warmpath_requests_total.by=prefix;.pool=default;";
pub const BY_LOAD: &str = "wasmcustom.warmpath_requests_total.by=load;.pool=default;";
pub const BAD: &str = "wasmcustom.warmpath_bad_settings.pool=default;";

/// Sends chats until one is counted as `by`.
pub async fn takes(envoy: &Envoy, by: &str) {
    let before = envoy.told().await.stat(by).await;
    until("the new strategy was in force", async || {
        chat(999).send(envoy.routed).await;
        (envoy.stat(by).await > before).then_some(())
    })
    .await;
}

/// A stream that has begun, and ends when the test says so.
pub struct LongStream {
    pod: Stream,
    client: Opened,
}

impl LongStream {
    /// Sends the chat of number `n`, which goes to `home`, and waits for its first token.
    pub async fn open(envoy: &Envoy, home: &TestPod, n: u64) -> LongStream {
        let (pod, answer) = Stream::new();
        let before = home.begun();
        home.answer_next(answer);
        let opened = tokio::spawn(Request::streamed_chat(&Random::text(n, 300)).open(envoy.routed));
        until("the stream was at its pod", async || (home.begun() > before).then_some(())).await;
        pod.chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n");
        let mut client = opened.await.unwrap();
        assert!(client.chunk().await.unwrap().is_some());
        LongStream { pod, client }
    }

    /// Ends it; the client must have all of it.
    pub async fn ends_whole(self) {
        self.pod.chunk("data: [DONE]\n\n");
        drop(self.pod);
        let rest = self.client.finish().await.unwrap().text();
        assert!(rest.ends_with("[DONE]\n\n"), "the stream was cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strategy_changes_with_the_route_and_cuts_no_stream_and_forgets_no_prefix() {
    let pods = TestPod::several(4).await;
    let (builder, routes) = by_route(&pods);
    let envoy = builder.concurrency(2).start().await;
    let routes = routes.recv().unwrap();
    envoy.sees_ready(4).await;

    // Without metadata, the plugin configuration holds.
    let mut homes = Vec::new();
    for n in 0..12 {
        homes.push(chat(n).send(envoy.routed).await.pod().to_owned());
    }
    let told = envoy.told().await;
    assert_eq!((told.stat(BY_PREFIX).await, told.stat(BY_LOAD).await), (12, 0));

    // A stream that lasts longer than all that follows.
    let home = pods.iter().find(|pod| pod.address() == homes[0]).unwrap();
    let stream = LongStream::open(&envoy, home, 0).await;

    pods.iter().for_each(|pod| pod.answer_all(model));
    let load = Traffic::start(envoy.routed, 8);
    load.more(20).await;
    for _ in 0..3 {
        routes.set(&of_rule("LOAD_ONLY"));
        takes(&envoy, BY_LOAD).await;
        routes.set(&of_rule("PREFIX_CACHE"));
        takes(&envoy, BY_PREFIX).await;
    }
    let account = load.stop().await;
    assert_eq!((account.lost().len(), account.errors().len(), account.broken()), (0, 0, 0), "{account}");
    assert_eq!(account.resent(), 0, "a connection was closed: {account}");

    stream.ends_whole().await;
    let listeners = envoy.stats("^listener_manager\\.listener_(modified|added)$").await;
    assert_eq!(listeners.get("listener_manager.listener_modified"), Some(&0), "{listeners:?}");

    pods.iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
    // With LOAD_ONLY the pods still held what they held.
    for (n, home) in homes.iter().enumerate() {
        assert_eq!(chat(n as u64).send(envoy.routed).await.pod(), home, "prompt {n}");
    }
    // Two workers met each document, and one said so.
    let said = envoy.log().matches("settings of route \"httproute/default/chat/rule/0\": LOAD_ONLY").count();
    assert!((1..=3).contains(&said), "said {said} times");
}

#[tokio::test]
async fn a_bad_document_leaves_the_last_good_one_in_force_and_says_why() {
    let pods = TestPod::several(2).await;
    let (builder, routes) = by_route(&pods);
    let envoy = builder.concurrency(2).start().await;
    let routes = routes.recv().unwrap();
    envoy.sees_ready(2).await;
    routes.set(&of_rule("LOAD_ONLY"));
    takes(&envoy, BY_LOAD).await;
    assert_eq!(envoy.stat(BAD).await, 0);

    routes.set(&of_rule("FASTEST"));
    until("the document was refused", async || {
        chat(1).send(envoy.routed).await;
        (envoy.stat(BAD).await == 1).then_some(())
    })
    .await;
    let line = envoy.logs(&["are refused, those before stay in force: `strategy` is \"FASTEST\"; use"]).await;
    assert!(line.contains("httproute/default/chat/rule/0"), "{line}");
    let by_prefix = envoy.told().await.stat(BY_PREFIX).await;
    for n in 0..12 {
        assert_eq!(chat(n).send(envoy.routed).await.status, 200);
    }
    assert_eq!(envoy.told().await.stat(BY_PREFIX).await, by_prefix);
    assert_eq!(envoy.log().matches("are refused").count(), 1, "once for all workers");

    // The same document by hand, without a controller's frame.
    routes.set(&json!({"strategy": "PREFIX_CACHE"}));
    takes(&envoy, BY_PREFIX).await;
}

/// A document in a file, as `scripts/envoy-config --pool-settings` sees it.
fn checked(document: &str) -> warmpath_tests::Finished {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, document).unwrap();
    let flag = format!("--pool-settings={}", file.display());
    let wasm = format!("--wasm={}", warmpath_tests::target().join("warmpath.wasm").display());
    command("scripts/envoy-config", &["--pods=127.0.0.1:8000", &wasm, &warmpath_tests::form(), &flag], &[])
}

/// What the module says to a document: whether Envoy takes it, and its words.
fn read_by_the_module(document: &str) -> (bool, String) {
    let printed = checked("{}").out;
    let inner = document.trim().trim_start_matches('{').trim_end_matches('}');
    let comma = if inner.trim().is_empty() { "" } else { ", " };
    let with = ["\"strategy\": \"PREFIX_CACHE\",", "\"plain_percent\": 0,", "\"fail_open\": true,"]
        .iter()
        .fold(printed, |text, line| text.replace(line, ""));
    let with = with.replace("\"pool\": \"default\",", &format!("\"pool\": \"default\", {inner}{comma}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, with).unwrap();
    let arguments = ["--mode", "validate", "-l", "error", "-c", file.to_str().unwrap()];
    let said = command("scripts/envoy", &arguments, &[]);
    (said.code == 0, said.err + &said.out)
}

#[test]
fn the_script_and_the_module_say_the_same_of_a_document() {
    let good = [
        r#"{}"#,
        r#"{"strategy": "DEFAULT", "fail_open": false, "plain_percent": 50, "shed_above_ms": 0, "set_priority": true,
            "tenant_header": "X-Tenant_1"}"#,
        r#"{"models": [{"name": "a", "criticality": "Sheddable", "targets": [{"name": "b", "weight": 0}]}, {"name": "b"}],
            "unknown_models": "refuse", "list_models": true, "restore_model_names": true,
            "objectives": [{"name": "o", "priority": -5}, {"name": "p"}]}"#,
    ];
    for document in good {
        let script = checked(document);
        assert_eq!(script.code, 0, "{document}: {}", script.err);
        let (taken, said) = read_by_the_module(document);
        assert!(taken, "{document}: {said}");
    }
    for (document, key) in [
        (r#"{"strategy": "FASTEST"}"#, "`strategy` is \"FASTEST\"; use \"PREFIX_CACHE\" or \"LOAD_ONLY\""),
        (r#"{"plain_percent": 51}"#, "`plain_percent` is 51; use 0 to 50"),
        (r#"{"tenant_header": "x tenant"}"#, "`tenant_header` is \"x tenant\", which "),
        (r#"{"stratgy": "LOAD_ONLY"}"#, "`stratgy` is no setting"),
        (r#"{"shed_above_ms": 1, "shed_above_ms": 2}"#, "`shed_above_ms` is there twice"),
        (r#"{"models": [{"name": "a", "criticality": "High"}]}"#, "`models[0].criticality` is \"High\""),
        (r#"{"models": [{"name": "a"}, {"name": "a"}]}"#, "`models[1].name` is \"a\", which is there twice"),
        (r#"{"models": [{"targets": []}]}"#, "`models[0].name` is missing"),
        (
            r#"{"models": [{"name": "a", "targets": [{"name": "x", "weight": 1}, {"name": "y"}]}]}"#,
            "`models[0].targets` has a weight for some",
        ),
        (
            r#"{"objectives": [{"name": "o", "priority": 2147483648}]}"#,
            "`objectives[0].priority` is 2147483648",
        ),
    ] {
        let script = checked(document);
        assert_eq!((script.code, script.out.as_str()), (2, ""), "{document}");
        assert!(script.err.contains(key), "{document}: {}", script.err);
        let (taken, said) = read_by_the_module(document);
        assert!(!taken && said.contains(key), "{document}: {said}");
    }
}

#[test]
fn settings_from_a_file_are_in_the_configuration_with_what_they_need() {
    let printed = checked(
        r#"{"$schema": "x", "strategy": "LOAD_ONLY", "restore_model_names": true, "models": [{"name": "é"}]}"#,
    );
    assert_eq!(printed.code, 0, "{}", printed.err);
    for part in
        ["\"strategy\": \"LOAD_ONLY\",", "\"models\": [{\"name\": \"é\"}],", "proxy_on_response_headers: {}"]
    {
        assert!(printed.out.contains(part), "{part}: {}", printed.out);
    }
    assert!(!printed.out.contains("$schema"));
    let nowhere = command("scripts/envoy-config", &["--pool-settings=/nowhere.json"], &[]);
    assert!(nowhere.code == 2 && nowhere.err.contains("cannot be read"), "{}", nowhere.err);
}

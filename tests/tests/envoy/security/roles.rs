//! What each role of the module may call and reach, in the configuration as Envoy has it.

use std::collections::BTreeSet;

use serde_json::Value;
use warmpath_tests::{Envoy, Request, TestPod, command, repository, target};
use wasmparser::{ExternalKind, Parser, Payload};

/// Every object inside `value`, itself included.
fn objects<'a>(value: &'a Value, visit: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|inner| objects(inner, visit));
        }
        Value::Array(list) => list.iter().for_each(|inner| objects(inner, visit)),
        _ => {}
    }
}

#[tokio::test]
async fn the_scrape_cluster_has_no_route_and_the_admin_page_is_on_loopback() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).start().await;
    let dump = envoy.admin_json("/config_dump").await;

    let (mut routed_to, mut composed_of, mut scrapes) = (BTreeSet::new(), BTreeSet::new(), 0);
    objects(&dump, &mut |map| {
        if let Some(action) = map.get("route").filter(|route| route.is_object()) {
            for (key, value) in action.as_object().unwrap() {
                match key.as_str() {
                    "cluster" => drop(routed_to.insert(value.as_str().unwrap())),
                    "timeout" | "retry_policy" => {}
                    // Other keys can name clusters too: a mirror, weights, a header. None is in use.
                    other => panic!("a route has `{other}`: does it reach another cluster?"),
                }
            }
        }
        if map.get("@type").is_some_and(|kind| kind.as_str().unwrap().contains("composite")) {
            composed_of
                .extend(map["clusters"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()));
        }
        scrapes += usize::from(map.get("name").is_some_and(|name| name == "warmpath-scrape"));
    });
    assert_eq!(routed_to, BTreeSet::from(["plain", "warmpath", "warmpath-fallback"]));
    let parts = ["warmpath-choice-1", "warmpath-choice-2", "warmpath-choice-3", "warmpath-fallback"];
    assert_eq!(composed_of, BTreeSet::from(parts));
    assert!(scrapes > 0, "the dump shows no scrape cluster, so this test saw too little");

    let admin = dump["configs"].as_array().unwrap().iter().find_map(|c| c["bootstrap"].get("admin")).unwrap();
    assert_eq!(admin["address"]["socket_address"]["address"], "127.0.0.1");
    // No flag makes it listen elsewhere.
    let opened = command("scripts/envoy-config", &["--listen", "0.0.0.0"], &[]);
    let line = opened.out.lines().find(|line| line.contains("# --admin-port")).unwrap();
    assert!(line.contains("address: 127.0.0.1,"), "{line}");
}

/// What the module imports and exports, functions only.
fn functions_of(module: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                imports.extend(section.into_imports().map(|import| import.unwrap().name.to_owned()));
            }
            Payload::ExportSection(section) => {
                let functions = section
                    .into_iter()
                    .map(Result::unwrap)
                    .filter(|export| export.kind == ExternalKind::Func);
                exports.extend(functions.map(|export| export.name.to_owned()));
            }
            _ => {}
        }
    }
    (imports, exports)
}

/// The host calls that `src/wasm` makes, by their import names.
fn calls_in_source() -> BTreeSet<String> {
    let source = std::fs::read_to_string(repository().join("src/wasm/src/abi/calls.rs")).unwrap();
    let (_, list) = source.split_once("\nimports! {\n").expect("the imports have moved");
    let (list, _) = list.split_once("\n}\n").unwrap();
    let imported = list.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.split_once('('));
    let mut calls: BTreeSet<String> = imported.map(|(name, _)| name.to_owned()).collect();
    // Seeds of hash maps, by the standard library.
    calls.insert("random_get".to_owned());
    calls
}

fn vm_config(plugin: &serde_json::Map<String, Value>) -> &serde_json::Map<String, Value> {
    plugin["vm_config"].as_object().unwrap()
}

/// The plugin with this `root_id` in Envoy's own words.
fn plugin(dump: &Value, role: &str) -> serde_json::Map<String, Value> {
    let mut found = None;
    objects(dump, &mut |map| {
        if map.get("root_id").is_some_and(|id| id == role) {
            found = Some(map.clone());
        }
    });
    found.unwrap()
}

/// What the configuration allows a role.
fn allowed(dump: &Value, role: &str) -> BTreeSet<String> {
    let plugin = plugin(dump, role);
    // Where it stands depends on Envoy's version.
    let holder =
        if plugin.contains_key("capability_restriction_config") { &plugin } else { vm_config(&plugin) };
    let list = &holder["capability_restriction_config"]["allowed_capabilities"];
    list.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn each_role_may_call_what_it_needs_and_nothing_else() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).start().await;
    let dump = envoy.admin_json("/config_dump").await;
    let [router, answer, collector] = ["router", "answer", "collector"].map(|role| allowed(&dump, role));

    let (imports, exports) = functions_of(&std::fs::read(target().join("warmpath.wasm")).unwrap());
    let callbacks: BTreeSet<String> =
        exports.into_iter().filter(|name| name.starts_with("proxy_on_")).collect();
    let callbacks: BTreeSet<String> =
        callbacks.into_iter().filter(|name| name != "proxy_on_memory_allocate").collect();
    let calls = calls_in_source();
    assert!(calls.is_subset(&imports), "not imported: {:?}", calls.difference(&imports));
    assert_eq!(router, calls.union(&callbacks).cloned().collect(), "the list in envoy/envoy.yaml");
    assert_eq!(router, answer, "one list, for where they share a VM");
    // Older versions of Envoy want the list elsewhere, and give the answer filter a VM of its own.
    if !plugin(&dump, "router").contains_key("capability_restriction_config") {
        let vms = ["router", "answer"].map(|role| plugin(&dump, role)["vm_config"].clone());
        assert_eq!(vms[0], vms[1], "Envoy gives plugins one VM that have one configuration of it");
    }

    // The collector sees no request, so it gets no callback for requests and no call that changes one.
    assert!(collector.is_subset(&router));
    let for_requests = router.difference(&collector).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        for_requests,
        [
            "proxy_continue_stream",
            "proxy_get_log_level",
            "proxy_get_metric",
            "proxy_on_request_body",
            "proxy_on_request_headers",
            "proxy_on_request_trailers",
            "proxy_on_response_body",
            "proxy_on_response_headers",
            "proxy_on_response_trailers",
            "proxy_remove_header_map_value",
            "proxy_replace_header_map_value",
            "proxy_send_local_response",
            "proxy_set_buffer_bytes",
            "proxy_set_property",
        ]
    );
}

#[tokio::test]
async fn what_only_shows_may_reach_no_pod_and_change_no_request() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).flag("--metrics-port", "0").flag("--console-port", "0").start().await;
    let dump = envoy.admin_json("/config_dump").await;
    let router = allowed(&dump, "router");
    for role in ["monitor", "console"] {
        let calls = allowed(&dump, role);
        assert!(calls.is_subset(&router), "{role}");
        for denied in [
            "proxy_http_call",
            "proxy_on_tick",
            "proxy_on_request_body",
            "proxy_replace_header_map_value",
            "proxy_increment_metric",
            "proxy_set_effective_context",
        ] {
            assert!(!calls.contains(denied), "{role}: {denied}");
        }
    }
}

#[tokio::test]
async fn envoy_refuses_a_host_call_that_is_not_on_the_roles_list() {
    let pods = TestPod::several(1).await;
    // The collector's list comes first in the file. Without this call it cannot scrape, so a router takes
    // over.
    let envoy = Envoy::of(&pods).edit(|configuration| {
        let is_call = |line: &str| line.trim() == "proxy_http_call: {}";
        let mut lines: Vec<&str> = configuration.lines().collect();
        // The router has it, too, and the answer filter where it shares the router's VM.
        assert!((2..=3).contains(&lines.iter().filter(|line| is_call(line)).count()));
        lines.remove(lines.iter().position(|line| is_call(line)).unwrap());
        lines.join("\n")
    });
    let envoy = envoy.start().await;
    envoy.logs(&["restricted", "proxy_http_call"]).await;
    assert_eq!(pods[0].scrapes(), 0);
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
}

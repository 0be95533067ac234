//! `scripts/kubernetes-manifests` as far as it needs no cluster: what it prints, and what it says to a
//! mistake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::Value;
use warmpath_tests::{Finished, command, repository};

const ZEROS: &str = "--sha256=0000000000000000000000000000000000000000000000000000000000000000";
/// The flags behind `manifests/attach/reference.yaml`.
const REFERENCE: [&str; 8] = [
    "--offline",
    "--gateway=qwen-inference-gateway",
    "--listener=llm-gw",
    "--port=8081",
    "--route=qwen-backend",
    "--pool=vllm-qwen-pool",
    "--module-url=https://example.com/warmpath.wasm",
    ZEROS,
];

fn manifests(arguments: &[&str]) -> Finished {
    command("scripts/kubernetes-manifests", arguments, &[])
}

/// The reference's flags without those that begin with a word of `without`, and with `more`.
fn reference(without: &[&str], more: &[&str]) -> Finished {
    let kept = REFERENCE.into_iter().filter(|flag| !without.iter().any(|word| flag.starts_with(word)));
    manifests(&kept.chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn the_file_for_the_reference_is_what_the_script_prints() {
    let printed = manifests(&REFERENCE);
    assert_eq!(printed.code, 0, "{}", printed.err);
    let file = std::fs::read_to_string(repository().join("manifests/attach/reference.yaml")).unwrap();
    assert!(printed.out == file, "manifests/attach/README.md has the command that makes them equal again");
}

#[test]
fn the_patches_come_first() {
    let printed = manifests(&REFERENCE).out;
    let kinds: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert_eq!(
        kinds,
        [
            "EnvoyPatchPolicy",
            "EnvoyPatchPolicy",
            "EnvoyExtensionPolicy",
            "BackendTrafficPolicy",
            "EnvoyProxy"
        ]
    );
}

#[test]
fn every_flag_reaches_the_policies() {
    let image = "--module-image=registry.example.com/warmpath:0.2";
    let cases: [(&[&str], &[&str], &str); 25] = [
        (&["--gateway"], &["--gateway=front"], "kind: Gateway, name: front }"),
        (&["--gateway"], &["--gateway=front"], "name: default/front/llm-gw\n"),
        (&["--listener"], &["--listener=web"], "name: default/qwen-inference-gateway/web\n"),
        (&["--port"], &["--port=80"], "name: tcp-80\n"),
        (&[], &["--http3"], "name: default/qwen-inference-gateway/llm-gw-quic\n"),
        (&[], &["--http3"], "name: udp-8081\n"),
        (&[], &["--route=second"], "kind: HTTPRoute, name: second }"),
        (&["--route"], &["--selector=pool=a"], r#"kind: HTTPRoute, matchLabels: { "pool": "a" } }"#),
        (&[], &["--namespace=team"], "envoyextensionpolicy/team/warmpath/wasm/0"),
        (&[], &["--name=mine"], "envoyextensionpolicy/default/mine/wasm/0"),
        (&["--module-url"], &[image], r#"image: { url: "registry.example.com/warmpath:0.2", sha256: 0000"#),
        (&[], &["--strategy=LOAD_ONLY"], r#""strategy": "LOAD_ONLY""#),
        (&[], &["--fail-closed"], r#""fail_open": false"#),
        (&[], &["--max-body-mib=2"], "value: 2097152\n"),
        (&[], &["--max-requests=77"], "maxParallelRequests: 77"),
        (&[], &["--request-timeout=1h"], "requestTimeout: 1h"),
        (&[], &["--drain-time=5m"], "drainTimeout: 5m"),
        (&[], &["--merged-class=shared"], "kind: GatewayClass, name: shared }"),
        (&[], &["--collector=singleton"], r#""root_id": "collector""#),
        (&[], &["--collector=singleton"], "mountPath: /warmpath"),
        (&[], &["--pages"], r#""root_id": "monitor""#),
        (&[], &["--pages"], r#""port_value": 9903"#),
        (&[], &["--pages"], "mountPath: /warmpath"),
        (&[], &["--collector=singleton", "--answer-filter"], "name: httproute/default/qwen-backend/rule/0\n"),
        (&[], &["--collector=singleton", "--answer-filter"], r#""root_id": "answer""#),
    ];
    let plain = manifests(&REFERENCE).out;
    for (without, more, line) in cases {
        let printed = reference(without, more);
        assert_eq!(printed.code, 0, "{more:?}: {}", printed.err);
        assert!(!plain.contains(line) && printed.out.contains(line), "{more:?} does not lead to: {line}");
    }
}

#[test]
fn an_envoy_gateway_that_cannot_merge_gets_no_field_that_it_does_not_know() {
    let merges = |version: &str| {
        let printed = reference(&[], &[version]).out;
        printed.matches("\n  mergeType: StrategicMerge\n").count()
    };
    assert_eq!(
        merges("--envoy-gateway=1.8"),
        1,
        "a BackendTrafficPolicy merges, an EnvoyExtensionPolicy does not"
    );
    assert_eq!(merges("--envoy-gateway=1.9"), 2);
}

#[test]
fn a_wrong_flag_is_named_with_its_remedy() {
    let cases: [(&[&str], &[&str], &str, &str); 20] = [
        (&["--gateway"], &["--gateway=Front"], "--gateway", "small letters"),
        (&["--gateway"], &[], "--gateway", "required"),
        (&["--route"], &[], "--route", "--selector"),
        (&[], &["--selector=a=b"], "--route", "either"),
        (&["--route"], &["--selector=a"], "--selector", "KEY=VALUE"),
        (&["--module-url"], &[], "--module-url", "--module-image"),
        (&["--module-url"], &["--module-url=warmpath.wasm"], "--module-url", "https://"),
        (&["--module-url"], &["--module-image=warmpath"], "--module-image", "REGISTRY/NAME:TAG"),
        (&["--sha256"], &[], "checksum", "--sha256"),
        (&["--sha256"], &["--sha256=12"], "--sha256", "sha256sum"),
        (&["--sha256"], &["--module=no-such-file"], "--module", "scripts/build"),
        (&["--sha256"], &["--module=Cargo.toml"], "--module", "WebAssembly"),
        (&["--listener"], &[], "--listener", "--port"),
        (&["--offline"], &[], "--port", "cluster is asked"),
        (&[], &["--envoy-gateway=1.5"], "--envoy-gateway", "1.6 to 1.10"),
        (&[], &["--drain-time=5"], "--drain-time", "15m"),
        (&[], &["--strategy=FASTEST"], "--strategy", "PREFIX_CACHE"),
        (&[], &["--collector=nobody"], "--collector", "singleton"),
        (&[], &["--answer-filter"], "--answer-filter", "--collector singleton"),
        (
            &["--route"],
            &["--selector=a=b", "--collector=singleton", "--answer-filter"],
            "--answer-filter",
            "--route",
        ),
    ];
    for (without, more, named, remedy) in cases {
        let said = reference(without, more);
        assert_eq!(said.code, 2, "{more:?}: {}", said.err);
        assert!(said.out.is_empty(), "{more:?} printed manifests all the same");
        assert!(said.err.contains(named) && said.err.contains(remedy), "{more:?}: {}", said.err);
    }
}

#[test]
fn without_kubectl_it_says_how_to_go_on() {
    let arguments = ["--gateway=eg", "--route=chat", "--module-url=https://example.com/warmpath.wasm", ZEROS];
    let said = command("scripts/kubernetes-manifests", &arguments, &[("KUBECTL", "no-such-kubectl")]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("no-such-kubectl") && said.err.contains("--offline"), "{}", said.err);
    assert!(said.out.is_empty());
}

#[test]
fn the_controllers_install_gives_metrics_the_labels_that_a_plain_envoy_has() {
    let tags = |file: &str| -> Vec<String> {
        let text = std::fs::read_to_string(repository().join(file)).unwrap();
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("- { tag_name:"));
        lines.filter(|line| line.contains("warmpath_")).map(str::to_owned).collect()
    };
    let plain = tags("envoy/envoy.yaml");
    assert!(!plain.is_empty());
    for file in ["envoy-gateway-values.yaml", "envoy-gateway-pages-values.yaml"] {
        assert_eq!(tags(&format!("manifests/install/{file}")), plain, "{file}");
    }
}

#[test]
fn the_access_log_is_that_of_the_policies_and_says_what_a_plain_envoys_says() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let printed = manifests(&REFERENCE).out;
    let policies = printed.split("---\n").find(|object| object.contains("kind: EnvoyProxy\n")).unwrap();
    let policies: Value = serde_saphyr::from_str(policies).unwrap();
    let policies = &policies["spec"]["telemetry"];
    let values: Value = serde_saphyr::from_str(&read("manifests/install/envoy-gateway-values.yaml")).unwrap();
    assert_eq!(&values["config"]["envoyGateway"]["envoyProxy"]["telemetry"], policies);
    let plain = read("envoy/envoy.yaml");
    for field in ["decision", "answer"] {
        let value = policies["accessLog"]["settings"][0]["format"]["json"][field].as_str().unwrap();
        let line = format!("{field}: \"{value}\"\n");
        assert!(plain.contains(&line), "{line}");
        for page in ["docs/envoy-gateway.md", "docs/kubernetes.md"] {
            assert!(read(page).contains(&line), "{page}: {line}");
        }
    }
}

#[test]
fn the_pages_of_the_controllers_install_are_those_of_the_policies() {
    /// The listeners of a bootstrap, but for what names the attach: the `vm_id`, and the settings of the
    /// plugin and its VM.
    fn listeners(proxy: &Value) -> Value {
        let bootstrap = proxy["bootstrap"]["value"].as_str().unwrap();
        let mut bootstrap: Value = serde_saphyr::from_str(bootstrap).unwrap();
        let mut listeners = bootstrap["static_resources"]["listeners"].take();
        for listener in listeners.as_array_mut().unwrap() {
            let config = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";
            let config = listener.pointer_mut(config).unwrap();
            for place in ["/vm_config/vm_id", "/vm_config/configuration/value", "/configuration/value"] {
                let text = config.pointer_mut(place).unwrap().take();
                assert!(text.is_string(), "{place}: {text}");
            }
        }
        listeners
    }
    let printed = reference(&[], &["--pages"]).out;
    let policies = printed.split("---\n").find(|object| object.contains("kind: EnvoyProxy\n")).unwrap();
    let policies: Value = serde_saphyr::from_str(policies).unwrap();
    let file = repository().join("manifests/install/envoy-gateway-pages-values.yaml");
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let values = &values["config"]["envoyGateway"]["envoyProxy"];
    assert_eq!(listeners(values), listeners(&policies["spec"]));
    assert_eq!(values["provider"], policies["spec"]["provider"]);
}

#[test]
fn the_documents_name_cases_that_exist() {
    let mut list = std::process::Command::new(env!("CARGO_BIN_EXE_kubernetes-tests"));
    let listed = String::from_utf8(list.args(["--list", "--long"]).output().unwrap().stdout).unwrap();
    let exists = |name: &str| match name.strip_suffix('*') {
        Some(module) => listed.lines().any(|case| case.starts_with(module)),
        None => listed.lines().any(|case| case == name),
    };
    for (file, heading) in [
        ("docs/compatibility.md", "### Cases from the field in Kubernetes"),
        ("docs/envoy-gateway.md", "holds the right outcome for the attach by policies:"),
    ] {
        let document = std::fs::read_to_string(repository().join(file)).unwrap();
        let (_, table) = document.split_once(heading).unwrap();
        let table = table.split_once("\n### ").map_or(table, |(table, _)| table);
        // Flags and settings are named beside the cases.
        let named: Vec<&str> = table
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| !name.starts_with("--") && !name.contains(' '))
            .collect();
        assert!(named.len() > 10, "{file}: {named:?}");
        for name in named {
            assert!(exists(name), "{file}: there is no case {name}");
        }
    }
}

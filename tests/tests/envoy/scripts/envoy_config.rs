//! `scripts/envoy-config`: its flags, and what Envoy says to what it prints.

use warmpath_tests::{Finished, command, form, repository, target};

fn config(arguments: &[&str]) -> Finished {
    command("scripts/envoy-config", arguments, &[("CARGO_TARGET_DIR", "target")])
}

#[test]
fn envoy_yaml_is_what_envoy_config_prints() {
    let printed = config(&[]);
    assert_eq!(printed.code, 0, "{}", printed.err);
    let file = std::fs::read_to_string(repository().join("envoy/envoy.yaml")).unwrap();
    assert!(printed.out == file, "scripts/envoy-config > envoy/envoy.yaml makes them equal again");
}

#[test]
fn every_flag_reaches_the_configuration() {
    let cases = [
        ("--pods=10.0.0.4:8000,[fd00::5]:8001", r#""pods": ["10.0.0.4:8000", "[fd00::5]:8001"],"#),
        ("--pods=10.0.0.4:8000,[fd00::5]:8001", r#"{ address: "fd00::5", port_value: 8001 }"#),
        ("--port=18081", "port_value: 18081 "),
        ("--plain-port=18080", "port_value: 18080 "),
        ("--admin-port=19901", "port_value: 19901 "),
        ("--listen=0.0.0.0", "{ address: 0.0.0.0, port_value: 8081 }"),
        ("--listen=::", r#"{ address: "::", port_value: 8080 }"#),
        ("--pool=qwen", r#""pool": "qwen","#),
        ("--discover=vllm", r#""discovery": { "cluster": "warmpath-discovery", "pods_of": "vllm" },"#),
        ("--discover=vllm", "- name: vllm\n      type: STRICT_DNS"),
        ("--strategy=LOAD_ONLY", r#""strategy": "LOAD_ONLY","#),
        ("--strategy=DEFAULT", r#""strategy": "DEFAULT","#),
        ("--fail-closed", r#""fail_open": false,"#),
        ("--plain-percent=7", r#""plain_percent": 7,"#),
        ("--metrics-port=19902", "port_value: 19902 "),
        ("--metrics-port=19902", "#   19902  metrics  for Prometheus"),
        ("--pods=10.0.0.4:8000,[fd00::5]:8001", "for the vLLM pods 10.0.0.4:8000 and [fd00::5]:8001."),
        ("--console-port=19903", "port_value: 19903 "),
        ("--receipt", r#"{ key: x-warmpath-matched, value: "%REQ(X-WARMPATH-MATCHED)%" }"#),
        ("--receipt", r#""receipt_headers": true,"#),
        ("--tracing=[fd00::9]:4317", r#"{ address: "fd00::9", port_value: 4317 }"#),
        ("--tracing=[fd00::9]:4317", r#""receipt_properties": true,"#),
        ("--settings-file=/my folder/a.json", r#"local file = io.open("/my folder/a.json", "rb")"#),
        ("--settings-file=/my folder/a.json", r#""path": "/my%20folder/a.json", "interval_ms": 2000},"#),
        (
            "--settings-url=https://files.example.com:8443/a.json",
            r#""host": "files.example.com:8443", "path": "/a.json", "interval_ms": 2000},"#,
        ),
        ("--settings-url=https://files.example.com", "sni: files.example.com"),
        ("--wasm=/opt/warmpath.wasm", "filename: /opt/warmpath.wasm }"),
        ("--wasm=/my folder/a: b.wasm", r#"filename: "/my folder/a: b.wasm" }"#),
        ("--envoy-version=1.37", "        capability_restriction_config:\n          allowed_capabilities:"),
        ("--envoy-version=1.39.3", "StringValue, value: answer }"),
        ("--access-log=/dev/null", "path: /dev/null"),
        ("--max-body-mib=5", "request_body_buffer_limit: 5242880"),
        ("--max-heap-mib=100", "max_heap_size_bytes: 104857600"),
        ("--max-requests=77", "max_requests: 77 "),
        ("--metrics-path=/m", r#""path": "/m","#),
        ("--scrape-ms=50", r#""interval_ms": 50,"#),
        ("--scrape-ms=50", r#""idle_interval_ms": 500,"#),
        ("--index-mib=7", r#""max_mib": 7"#),
        ("--upload-timeout=2m", "request_timeout: 120s"),
        ("--pod-silence-timeout=500ms", "per_try_idle_timeout: 0.5s"),
        ("--stream-idle-timeout=2h", "stream_idle_timeout: 7200s"),
    ];
    let plain = config(&[]).out;
    for (flag, line) in cases {
        let printed = config(&[flag]);
        assert_eq!(printed.code, 0, "{flag}: {}", printed.err);
        assert!(!plain.contains(line) && printed.out.contains(line), "{flag} does not lead to: {line}");
    }
}

#[test]
fn a_wrong_flag_is_named_with_its_remedy() {
    let cases = [
        ("--pods=vllm-0:8000", "--pods", "getent hosts vllm-0"),
        ("--pods=vllm-0:8000", "--pods", "--discover"),
        ("--discover=warmpath-scrape", "--discover", "another cluster"),
        ("--discover=a b", "--discover", "letters"),
        ("--pods=10.0.0.4", "--pods", "10.0.0.4:8000"),
        ("--pods=10.0.0.4:70000", "--pods", "1 to 65535"),
        ("--pods=10.0.0.4:0", "--pods", "1 to 65535"),
        ("--pods=10.0.0.4:8000,10.0.0.4:8000", "--pods", "twice"),
        ("--pods=fd00::5:8000", "--pods", "brackets"),
        ("--pods=[10.0.0.4]:8000", "--pods", "10.0.0.4:8000"),
        ("--pods=0.0.0.0:8000", "--pods", "address that the pod listens on"),
        ("--pods=", "--pods", "HOST:PORT"),
        ("--pods=10.0.0.4:8000,", "--pods", "comma"),
        ("--port=http", "--port", "0 to 65535"),
        ("--port=8080", "--plain-port", "different"),
        ("--admin-port=8081", "--admin-port", "different"),
        ("--listen=localhost", "--listen", "127.0.0.1"),
        ("--pool=a b", "--pool", "letters"),
        ("--strategy=FASTEST", "--strategy", "PREFIX_CACHE"),
        ("--wasm=a\nb", "--wasm", "printable"),
        ("--envoy-version=new", "--envoy-version", "like 1.40"),
        ("--max-body-mib=0", "--max-body-mib", "1 to 128"),
        ("--max-body-mib=129", "--max-body-mib", "of MiB from 1 to 128"),
        ("--max-heap-mib=1", "--max-heap-mib", "64 to"),
        ("--max-requests=0", "--max-requests", "1 to"),
        ("--metrics-path=metrics", "--metrics-path", "/metrics"),
        ("--scrape-ms=1", "--scrape-ms", "10 to 60000"),
        ("--index-mib=lots", "--index-mib", "1 to 512"),
        ("--upload-timeout=5", "--upload-timeout", "30s"),
        ("--settings-file=", "--settings-file", "printable"),
        ("--settings-url=files.example.com/a.json", "--settings-url", "like http://"),
        ("--settings-url=https://[fd00::9]/a.json", "--settings-url", "the host's name"),
        ("--settings-ms=1", "--settings-ms", "100 to 600000"),
        ("--pod=10.0.0.4:8000", "--pod", "--help"),
    ];
    for (flag, name, remedy) in cases {
        let printed = config(&[flag]);
        assert_eq!(printed.code, 2, "{flag}");
        assert_eq!(printed.out, "", "{flag}: half a configuration is worse than none");
        assert!(printed.err.contains(name) && printed.err.contains(remedy), "{flag}: {}", printed.err);
        assert!(!printed.err.contains("Traceback"), "{flag}: {}", printed.err);
    }
}

#[test]
fn help_shows_every_flag_and_how_func_e_uses_it() {
    let help = config(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("func-e run --config-yaml \"$(scripts/envoy-config "), "{}", help.out);
    for flag in [
        "--pods",
        "--discover",
        "--port",
        "--plain-port",
        "--admin-port",
        "--pool",
        "--strategy",
        "--wasm",
        "--listen",
    ] {
        assert!(help.out.contains(flag), "{flag}");
    }
}

#[test]
fn envoy_itself_accepts_what_envoy_config_prints() {
    for flags in [
        &["--pods=10.0.0.4:8000,[fd00::5]:8001"][..],
        &["--pods=vllm.example.com:8000", "--discover=vllm"],
        &["--fail-closed", "--strategy=LOAD_ONLY", "--listen=::"],
        &["--receipt", "--tracing=127.0.0.1:4317", "--settings-file=/no/such.json"],
        &["--settings-url=http://files.example.com/a.json", "--restore-model-names"],
    ] {
        let wasm = format!("--wasm={}", target().join("warmpath.wasm").display());
        let printed = config(&[flags, &[&wasm, &form()]].concat());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("envoy.yaml");
        std::fs::write(&path, printed.out).unwrap();
        let path = path.to_str().unwrap();
        let checked = command("scripts/envoy", &["--mode", "validate", "-l", "error", "-c", path], &[]);
        assert_eq!(checked.code, 0, "{flags:?}: {}", checked.err);
    }
}

#[test]
fn envoy_reads_the_configuration_from_a_pipe_as_json() {
    // As a shell's <(...) gives it: a path below /dev/fd without an extension.
    let script = "scripts/envoy --mode validate -l error -c <(scripts/envoy-config --json \"$@\")";
    let wasm = format!("--wasm={}", target().join("warmpath.wasm").display());
    let run = |pods: &str| command("/usr/bin/env", &["bash", "-c", script, "-", pods, &wasm, &form()], &[]);
    let read = run("--pods=10.0.0.4:8000,[fd00::5]:8001");
    assert_eq!(read.code, 0, "{}", read.err);
    // Nothing is lost on the way: the same settings, and the comments alone are gone.
    let flags = ["--pods=10.0.0.4:8000,[fd00::5]:8001", "--pool=qwen", "--listen=::", "--max-requests=77"];
    let json = config(&[&flags[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let resources = &json["static_resources"];
    assert_eq!(resources["listeners"][1]["address"]["socket_address"]["address"], "::");
    let clusters = resources["clusters"].as_array().unwrap();
    assert_eq!(clusters[0]["circuit_breakers"], clusters[1]["circuit_breakers"]);
    assert_eq!(clusters[1]["circuit_breakers"]["thresholds"][0]["max_requests"], 77);
    let settings =
        json["bootstrap_extensions"][0]["typed_config"]["config"]["configuration"]["value"].as_str();
    let settings: serde_json::Value = serde_json::from_str(settings.unwrap()).unwrap();
    assert_eq!(settings["pool"], "qwen");
    assert_eq!(settings["pods"], serde_json::json!(["10.0.0.4:8000", "[fd00::5]:8001"]));
}

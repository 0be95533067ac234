//! The scripts that users type: what they print, and what they say to a mistake.

use std::sync::atomic::{AtomicU16, Ordering};

use warmpath_tests::{Finished, command, repository};

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
        ("--console-port=19903", "port_value: 19903 "),
        ("--receipt", r#"{ key: x-warmpath-matched, value: "%FILTER_STATE(wasm.warmpath.matched:PLAIN)%" }"#),
        ("--receipt", r#""receipt_properties": true,"#),
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
        (
            "--envoy-version=1.40",
            "          capability_restriction_config:\n            allowed_capabilities:",
        ),
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
    assert!(help.out.contains("func-e run -c <(scripts/envoy-config --json "), "{}", help.out);
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
        let wasm = format!("--wasm={}", warmpath_tests::target().join("warmpath.wasm").display());
        let printed = config(&[flags, &[&wasm]].concat());
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
    let wasm = format!("--wasm={}", warmpath_tests::target().join("warmpath.wasm").display());
    let run = |pods: &str| command("/usr/bin/env", &["bash", "-c", script, "-", pods, &wasm], &[]);
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

#[test]
fn an_envoy_that_is_too_old_or_has_no_v8_is_refused_with_a_reason() {
    let fake = repository().join("tests/fixtures/fake-envoy");
    let says = |envoy: &str, version: &str, validate: &str, words: &str, arguments: &[&str]| {
        let environment =
            [("ENVOY", envoy), ("FAKE_VERSION", version), ("FAKE_VALIDATE", validate), ("FAKE_SAYS", words)];
        command("scripts/envoy", arguments, &environment)
    };
    let without = "Failed to create Wasm VM using envoy.wasm.runtime.v8 runtime. Envoy was compiled without support for it";
    let run =
        |envoy: &str, version: &str, validate: &str| says(envoy, version, validate, without, &["-c", "x"]);
    let fake = fake.to_str().unwrap();

    for version in ["1.37.0", "1.40.0", "1.41.0-dev", "2.0.0"] {
        let finished = run(fake, version, "0");
        let ran = (finished.code, finished.out.trim());
        assert_eq!(ran, (0, "ran -c x --use-dynamic-base-id"), "{version}: {}", finished.err);
        assert!(finished.err.contains(version) && finished.err.contains("$ENVOY"), "{}", finished.err);
        // Asked which, it says the version all the same, but not where a program reads the path.
        let which = says(fake, version, "0", "", &["--which"]);
        assert_eq!((which.code, which.out.trim()), (0, fake), "{}", which.err);
        assert!(which.err.contains(version) && which.err.contains("$ENVOY"), "{}", which.err);
    }
    // Another fault is not put down to V8.
    let other = says(fake, "1.40.0", "1", "cannot allocate memory", &["-c", "x"]);
    assert_eq!((other.code, other.out.as_str()), (1, ""));
    assert!(other.err.contains("cannot allocate memory") && other.err.contains(fake), "{}", other.err);
    assert!(!other.err.contains("without V8"), "{}", other.err);
    for version in ["1.36.9", "1.9.0", "0.99.0"] {
        let finished = run(fake, version, "0");
        assert_eq!((finished.code, finished.out.as_str()), (1, ""), "{version}");
        assert!(finished.err.contains(version) && finished.err.contains("1.37"), "{}", finished.err);
    }
    for (envoy, reason) in
        [(fake, "built without V8"), ("/no/such/envoy", "unset it"), ("true", "Is it an Envoy?")]
    {
        let finished = run(envoy, "1.38.3", "1");
        assert_eq!((finished.code, finished.out.as_str()), (1, ""), "{envoy}");
        assert!(finished.err.contains(envoy) && finished.err.contains(reason), "{}", finished.err);
    }
}

#[test]
fn the_demo_names_a_port_that_is_taken_and_the_flag_for_another() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--port", "--plain-port", "--admin-port"] {
        // The other two are free whatever runs on this machine; 0 is not offered to users.
        let free: Vec<String> = (0..2).map(|_| free_port()).collect();
        let others = ["--port", "--plain-port", "--admin-port"].into_iter().filter(|&other| other != flag);
        let mut arguments = vec!["--check", flag, &port];
        arguments.extend(others.zip(&free).flat_map(|(flag, port)| [flag, port.as_str()]));
        let demo = command("scripts/demo", &arguments, &[]);
        assert_eq!(demo.code, 1, "{}", demo.err);
        let sentence =
            format!("port {port} is taken by another program. Choose another one: scripts/demo {flag} ");
        assert!(demo.err.contains(&sentence), "{}", demo.err);
    }
}

#[test]
fn the_demo_runs_to_its_end_and_says_what_it_showed() {
    let ports = [free_port(), free_port(), free_port()];
    let arguments = ["--check", "--port", &ports[0], "--plain-port", &ports[1], "--admin-port", &ports[2]];
    let demo = command("scripts/demo", &arguments, &[]);
    assert_eq!(demo.code, 0, "{}{}", demo.out, demo.err);
    let last = demo.out.lines().last().unwrap();
    let percent = last
        .strip_prefix("demo: ok, round 2 matched ")
        .and_then(|rest| rest.strip_suffix(" % on the pod of round 1"));
    let percent: u32 = percent.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{last}"));
    assert!((51..=100).contains(&percent), "{last}");
    assert!(demo.out.contains("Do prefix-aware routing!"), "{}", demo.out);
    // What it started is gone.
    for port in ports {
        assert!(std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "{port} is still in use");
    }
}

#[tokio::test]
async fn the_demo_names_the_server_that_is_no_vllm_before_it_builds() {
    let pods = warmpath_tests::TestPod::several(2).await;
    pods[1].set_metrics_status(404);
    let mut arguments = vec!["--check".to_owned()];
    for flag in ["--port", "--plain-port", "--admin-port"] {
        arguments.extend([flag.to_owned(), free_port()]);
    }
    arguments.push(format!("--pods={},{}", pods[0].address(), pods[1].address()));
    let demo = tokio::task::spawn_blocking(move || {
        command("scripts/demo", &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    });
    let demo = demo.await.unwrap();
    assert_eq!(demo.code, 1, "{}", demo.err);
    let sentence = format!("demo: http://{}/metrics answered 404; is that a vLLM server", pods[1].address());
    assert!(demo.err.contains(&sentence), "{}", demo.err);
    assert!(!demo.out.contains("Building"), "{}", demo.out);
}

#[test]
fn a_rust_that_cannot_build_the_module_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let fake = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let build = || command("scripts/build", &[], &[("PATH", &path)]);
    fake("cargo", "exit 9");
    // Neither an old one ...
    fake("rustc", "echo 'rustc 1.80.1 (0123abcd 2024-08-06)'");
    let old = build();
    assert_eq!(old.code, 1, "{}", old.err);
    assert!(old.err.contains("this is Rust 1.80") && old.err.contains("or newer"), "{}", old.err);
    // ... nor one without the target.
    fake(
        "rustc",
        "case $1 in --version) echo 'rustc 1.999.0 (0123abcd 2030-01-01)' ;; *) echo /nowhere ;; esac",
    );
    let no_rustup = build();
    assert_eq!(no_rustup.code, 1, "{}", no_rustup.err);
    assert!(
        no_rustup.err.contains("wasm32-wasip1") && no_rustup.err.contains("Install rustup"),
        "{}",
        no_rustup.err
    );
    fake("rustup", "[ \"$2\" != add ]");
    let refused = build();
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("rustup could not add the target"), "{}", refused.err);
}

/// A port that nobody listens on, and that nobody else is given before the script listens there: below those
/// that the kernel gives to whoever asks for any, and in a part of them that is this process's own.
fn free_port() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PART: u16 = 16;
    let first = 10_000 + (std::process::id() % 1_250) as u16 * PART;
    let mut ports = (0..PART).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % PART);
    let free = ports.find(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    free.expect("a free port").to_string()
}

#[test]
fn wrong_flags_of_the_demo_are_named() {
    for (arguments, names) in [
        (&["--port", "http"][..], "--port: 'http' is not a port"),
        (&["--port", "8080"], "different ports"),
        (&["--model", "x"], "--model"),
        (&["--prot", "1"], "--prot"),
    ] {
        let demo = command("scripts/demo", arguments, &[]);
        assert_eq!(demo.code, 2, "{}", demo.err);
        assert!(demo.err.contains(names), "{}", demo.err);
    }
}

#[test]
fn wrong_flags_of_developers_scripts_are_named() {
    for (script, arguments, names) in [
        ("scripts/build", &["--debug"][..], "'--debug' is not a flag"),
        ("scripts/fuzz", &["--seconds", "0"], "--seconds"),
        ("scripts/fuzz", &["--seconds"], "--seconds"),
        ("scripts/fuzz", &["bodies"], "there are: body"),
        ("scripts/check", &["formatting"], "there are: format"),
        ("scripts/test", &["--package", "core"], "--package"),
        ("scripts/real-vllm", &["streaming"], "there are: streamed-chat"),
        ("scripts/real-vllm", &["streamed-chat", "--gain", "2"], "--gain"),
    ] {
        let finished = command(script, arguments, &[]);
        assert_eq!(finished.code, 2, "{script} {arguments:?}: {}", finished.err);
        assert!(finished.err.contains(names), "{script} {arguments:?}: {}", finished.err);
    }
    let help = command("scripts/fuzz", &["--help"], &[]);
    assert!(help.code == 0 && help.out.contains("--seconds 3600 body usage"), "{}", help.out);
}

#[test]
fn help_of_every_script_teaches_by_examples_and_starts_nothing() {
    // Whoever calls one of these has begun to work.
    let folder = tempfile::tempdir().unwrap();
    for name in ["cargo", "rustup", "pip", "envoy"] {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, "#!/bin/sh\necho started >&2\nexit 9\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut scripts = 0;
    for entry in std::fs::read_dir(repository().join("scripts")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue;
        }
        let name = format!("scripts/{}", entry.file_name().to_string_lossy());
        let help = command(&name, &["--help"], &[("PATH", &path)]);
        assert_eq!(help.code, 0, "{name}: {}", help.err);
        assert_eq!(help.err, "", "{name} starts something to print its help");
        let examples = help.out.lines().filter(|line| line.starts_with(&format!("  {name}"))).count();
        assert!(examples > 0, "{name} --help shows no example:\n{}", help.out);
        scripts += 1;
    }
    assert!(scripts > 10, "only {scripts} scripts were found");
}

#[test]
fn scripts_envoy_without_a_configuration_says_how_to_give_one() {
    for (arguments, says) in [
        (&[][..], "scripts/envoy -c FILE"),
        (&["--log-level", "warning"], "scripts/envoy -c FILE"),
        (&["--use"], "--use 1.39.3"),
        (&["--use", "newest", "--which"], "'newest' is not a version"),
    ] {
        let finished = command("scripts/envoy", arguments, &[]);
        assert_eq!((finished.code, finished.out.as_str()), (1, ""), "{arguments:?}: {}", finished.err);
        assert!(finished.err.contains(says), "{arguments:?}: {}", finished.err);
    }
}

#[test]
fn scripts_envoy_reads_json_from_standard_input_and_refuses_yaml() {
    let wasm = format!("--wasm={}", warmpath_tests::target().join("warmpath.wasm").display());
    let run = |json: &str| {
        let script =
            format!("scripts/envoy-config {json} '{wasm}' | scripts/envoy --mode validate -l error -c -");
        command("/usr/bin/env", &["bash", "-c", &script], &[])
    };
    let read = run("--json");
    assert_eq!(read.code, 0, "{}", read.err);
    let refused = run("");
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("scripts/envoy-config --json"), "{}", refused.err);
}

#[tokio::test]
async fn envoy_starts_without_a_warning_about_deprecated_fields() {
    let pods = warmpath_tests::TestPod::several(1).await;
    let envoy = warmpath_tests::Envoy::ready(&pods).await;
    assert!(!envoy.log().contains("Deprecated field"), "{}", envoy.log());
}

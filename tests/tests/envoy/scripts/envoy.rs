//! `scripts/envoy`: which Envoy it takes, and how it gets its configuration.

use warmpath_tests::{Envoy, TestPod, command, form, is_1_40, repository, target};

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
    let wasm = format!("--wasm={}", target().join("warmpath.wasm").display());
    let form = form();
    let run = |json: &str| {
        let script = format!(
            "scripts/envoy-config {json} {form} '{wasm}' | scripts/envoy --mode validate -l error -c -"
        );
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
    let pods = TestPod::several(1).await;
    let warnings = async |form: &str| {
        let envoy = Envoy::of(&pods)
            .flag("--metrics-port", "0")
            .flag("--console-port", "0")
            .flag("--tracing", "127.0.0.1:4317")
            .switch("--receipt")
            .flag("--envoy-version", form);
        envoy.start().await.log().lines().filter(|line| line.contains("deprecated")).count()
    };
    if is_1_40() {
        let shown = |arguments: &[&str]| command("scripts/envoy-config", arguments, &[]).out;
        assert_eq!(shown(&[]), shown(&["--envoy-version=1.40"]), "1.40 is what a user gets");
        assert_eq!(warnings("1.40").await, 0);
        // The form of older versions shows that a warning is seen.
        assert!(warnings("1.37").await > 0);
    } else {
        assert_eq!(warnings("1.37").await, 0);
    }
}

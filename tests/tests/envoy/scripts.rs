//! The scripts that users type: what they print, and what they say to a mistake.

mod demo;
mod envoy;
mod envoy_config;

use warmpath_tests::{command, repository};

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

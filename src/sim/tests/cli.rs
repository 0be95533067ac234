//! The binary: it says where it listens, serves there, and ends cleanly when asked to.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn a_pod_says_where_it_is_and_ends_on_sigterm() {
    let mut pod = Command::new(env!("CARGO_BIN_EXE_warmpath-sim"))
        .args(["pod", "--port", "0", "--model", "m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(pod.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.strip_prefix("pod m on http://").and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok(), "{ready}");
    let killed = Command::new("kill").args(["-TERM", &pod.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(pod.wait().unwrap().success());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_pod_that_cannot_run_says_why() {
    let pod =
        Command::new(env!("CARGO_BIN_EXE_warmpath-sim")).args(["pod", "--blocks", "10"]).output().unwrap();
    assert!(!pod.status.success());
    let error = String::from_utf8_lossy(&pod.stderr).into_owned();
    assert!(error.contains("--max-model-len must be 2 to 144"), "{error}");
}

/// Standard error and exit code of the program with these flags, where a backtrace would be printed if there
/// were one.
#[cfg(test)]
fn failure(flags: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_warmpath-sim"))
        .args(flags)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[test]
fn a_wrong_flag_is_named_with_what_it_may_be() {
    for (flags, word) in [
        (["fleet", "--workload", "foo"], "there are chats"),
        (["fleet", "--policy", "foo"], "there are warmpath"),
        (["fleet", "--seeds", "0"], "1..=1000"),
        (["fleet", "--pods", "0"], "use a whole number from 1 to"),
        (["fleet", "--sweep", "foo=1"], "use one of own_work_weight"),
        (["pod", "--fault", "{}"], "--faults"),
        (["pod", "--faults", "{\"fial\":1}"], "unknown field `fial`"),
        (["fleet", "--workload", "trace"], "needs --trace FILE"),
        (["pod", "--step-ms", "0"], "--step-ms must be more than 0"),
    ] {
        let (error, code) = failure(&flags);
        assert_eq!(code, Some(2), "{flags:?}: {error}");
        assert!(error.contains(word) && !error.contains("backtrace"), "{flags:?}: {error}");
    }
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let flags = ["traffic", "--url", "http://127.0.0.1:1", "--workload", "random", "--num-prompts", "1"];
    let (error, code) = failure(&flags);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.starts_with("warmpath-sim: cannot reach http://127.0.0.1:1"), "{error}");
}

#[test]
fn a_short_run_says_that_it_judges_nothing() {
    let flags =
        ["fleet", "--workload", "chats", "--policy", "warmpath,random", "--requests", "60", "--check"];
    let output = Command::new(env!("CARGO_BIN_EXE_warmpath-sim")).args(flags).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.trim_end().lines().last().unwrap().starts_with("This run judges nothing: --requests"),
        "{text}"
    );
}

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

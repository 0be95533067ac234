//! `scripts/demo`: what it shows, and what it says before it begins.

use std::sync::atomic::{AtomicU16, Ordering};

use warmpath_tests::{TestPod, command};

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
    let pods = TestPod::several(2).await;
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

//! A plain Envoy as the README has it, run by func-e itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use warmpath_tests::{Request, TestPod, command, repository};

use crate::process::Process;
use crate::wait::until;
use crate::world::World;

pub async fn func_e_runs_the_configuration_of_the_readme(world: &mut World) {
    let mut pods = Vec::new();
    for port in [8000, 8001, 8002] {
        pods.push(TestPod::at(&format!("127.0.0.1:{port}")).await);
    }
    let printed = |form: &str| {
        let flags = ["--pods", "127.0.0.1:8000,127.0.0.1:8001,127.0.0.1:8002", form];
        let printed = command("scripts/envoy-config", &flags, &[]);
        assert_eq!(printed.code, 0, "{}", printed.err);
        printed.out
    };
    let which = command("scripts/envoy", &["--which"], &[]);
    assert_eq!(which.code, 0, "{}", which.err);
    // As a file, and without one; and for the Envoy of the Gateway, which is older.
    let (newest, gateways) = (PathBuf::from(which.out.trim()), world.ground.tools.join("envoy"));
    for (nth, (envoy, arguments)) in [
        (&newest, ["-c", "envoy/envoy.yaml"]),
        (&newest, ["--config-yaml", &printed("--envoy-version=1.40")]),
        (&gateways, ["--config-yaml", &printed("--envoy-version=1.39")]),
    ]
    .into_iter()
    .enumerate()
    {
        runs(world, &format!("func-e-{nth}"), envoy, arguments, &pods).await;
    }
    for pod in &mut pods {
        pod.kill().await;
    }
}

async fn runs(world: &World, name: &str, envoy: &Path, arguments: [&str; 2], pods: &[TestPod]) {
    let scraped: Vec<usize> = pods.iter().map(TestPod::scrapes).collect();
    let logs = world.ground.logs();
    let log = logs.join(format!("{name}.log"));
    let folder = world.ground.folder.join(name);
    let mut func_e = Process::start(
        name,
        &logs,
        Command::new(world.ground.tools.join("func-e"))
            .arg("run")
            .args(arguments)
            .current_dir(repository())
            .env("ENVOY_PATH", envoy)
            .env("FUNC_E_HOME", folder),
    );
    let routed: SocketAddr = "127.0.0.1:8081".parse().unwrap();
    until("every pod's load was read, and the port is open", async || {
        func_e.lives();
        let opened = tokio::net::TcpStream::connect(routed).await.is_ok();
        (opened && pods.iter().zip(&scraped).all(|(pod, &before)| pod.scrapes() > before)).then_some(())
    })
    .await;
    let words =
        format!("Once upon a time {name} had a prompt that was long enough to be found again. ").repeat(20);
    let round = |more: &[&str]| {
        let mut messages = vec![json!({"role": "user", "content": words})];
        messages.extend(more.iter().map(|text| json!({"role": "user", "content": text})));
        Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
    };
    let first = round(&[]).send(routed).await;
    let second = round(&["And then?"]).send(routed).await;
    assert!(first.status == 200 && second.status == 200, "{} and {}", first.text(), second.text());
    assert_eq!(second.pod(), first.pod());
    until("the log says that it was routed by its prefix", async || {
        std::fs::read_to_string(&log).unwrap().contains("Do prefix-aware routing!").then_some(())
    })
    .await;
    func_e.end();
}

//! A plain Envoy as the README has it, run by func-e itself.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::json;
use warmpath_tests::{Request, TestPod, repository};

use crate::process::Process;
use crate::wait::until;
use crate::world::World;

pub async fn func_e_runs_the_configuration_of_the_readme(world: &mut World) {
    let mut pods = Vec::new();
    for port in [8000, 8001, 8002] {
        pods.push(TestPod::at(&format!("127.0.0.1:{port}")).await);
    }
    let logs = world.ground.logs();
    let log = logs.join("func-e.log");
    let folder = world.ground.folder.join("func-e");
    let mut func_e = Process::start(
        "func-e",
        &logs,
        Command::new(world.ground.tools.join("func-e"))
            .args(["run", "-c", "envoy/envoy.yaml"])
            .current_dir(repository())
            .env("ENVOY_PATH", world.ground.tools.join("envoy"))
            .env("FUNC_E_HOME", folder),
    );
    let routed: SocketAddr = "127.0.0.1:8081".parse().unwrap();
    until("every pod's load was read, and a chat is answered", async || {
        func_e.lives();
        let opened = tokio::net::TcpStream::connect(routed).await.is_ok();
        (opened && pods.iter().all(|pod| pod.scrapes() > 0)).then_some(())
    })
    .await;
    let words = "Once upon a time there was a prompt that was long enough to be found again. ".repeat(20);
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
    for pod in &mut pods {
        pod.kill().await;
    }
}

//! A simulated pod in its own process, which can be killed and stopped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::client::Request;

/// A `warmpath-sim pod`. Dropping it ends it.
#[derive(Debug)]
pub struct SimPod {
    program: String,
    flags: Vec<String>,
    address: SocketAddr,
    child: Option<Child>,
}

impl SimPod {
    /// Starts `program`, a binary of `warmpath-sim`, on a free port.
    pub fn start(program: &str, flags: &[&str]) -> SimPod {
        let mut pod = SimPod {
            program: program.to_owned(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            child: None,
        };
        pod.revive();
        pod
    }

    /// Its address, `ip:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Gives a flag another value, from its next start on.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        match self.flags.iter().position(|there| there == flag) {
            Some(at) => self.flags[at + 1] = value.to_owned(),
            None => self.flags.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// Whether it has not been killed.
    pub fn lives(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on its port, with an empty cache. Returns when it listens.
    pub fn revive(&mut self) {
        self.kill();
        let mut child = Command::new(&self.program)
            .args(["pod", "--faults", "--port", &self.address.port().to_string()])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("http://"));
        self.address = address
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("{} said {line:?} instead of its address", self.program));
    }

    /// SIGSTOP. The kernel still accepts connections, and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sets its faults, as `warmpath-sim pod --help` lists them.
    pub async fn fault(&self, faults: &Value) {
        self.tell("/sim/faults", faults).await;
    }

    /// Gives it a LoRA adapter.
    pub async fn load(&self, adapter: &str) {
        self.tell("/v1/load_lora_adapter", &json!({"lora_name": adapter, "lora_path": "/adapters"})).await;
    }

    /// Takes a LoRA adapter away from it.
    pub async fn unload(&self, adapter: &str) {
        self.tell("/v1/unload_lora_adapter", &json!({"lora_name": adapter})).await;
    }

    /// What an operator does: a POST without a body.
    pub async fn operate(&self, path: &str) {
        let reply = Request::new("POST", path).send(self.address).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// Requests that it has answered to their ends since its start.
    pub async fn answered(&self) -> u64 {
        let page = Request::get("/metrics").send(self.address).await.text();
        let ended = |line: &&str| {
            line.starts_with("vllm:request_success_total{") && !line.contains("finished_reason=\"abort\"")
        };
        let counts =
            page.lines().filter(ended).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        counts.sum::<f64>() as u64
    }

    async fn tell(&self, path: &str, document: &Value) {
        let reply = Request::post(path, document).send(self.address).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
            assert!(status.success(), "kill -s {name}: {status}");
        }
    }
}

impl Drop for SimPod {
    fn drop(&mut self) {
        self.kill();
    }
}

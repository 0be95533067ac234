//! Warmpath's controller as its Deployment runs it, with the rights of its own manifests, and its pages.

use std::process::Command;

use hyper::StatusCode;
use warmpath_tests::{Reply, Request, repository};

use crate::api::{CERTGEN_TOKEN, CONTROLLER_TOKEN};
use crate::container::secret_files;
use crate::ground::Ground;
use crate::process::{Process, program};
use crate::sandbox::address;
use crate::wait::until;

/// What of `manifests/install` is applied before the controller starts.
const BEFORE_THE_CONTROLLER: [&str; 5] =
    ["crds/routedpools.yaml", "namespace.yaml", "rbac.yaml", "rbac-envoy-gateway.yaml", "certificates.yaml"];

/// Applies what comes before the controller, and makes its certificates as the Job does.
pub async fn prepare(ground: &Ground) {
    for file in BEFORE_THE_CONTROLLER {
        let text = std::fs::read_to_string(repository().join("manifests/install").join(file)).unwrap();
        ground.cluster.apply_all(&text).await;
    }
    let mut certgen = Command::new(program("warmpath-controller"));
    certgen.arg("certgen").env("KUBECONFIG", ground.cluster.kubeconfig_of(CERTGEN_TOKEN));
    let done = certgen.output().unwrap();
    assert!(done.status.success(), "certgen: {}", String::from_utf8_lossy(&done.stderr));
}

/// Where the controller listens, and where a second replica of it does.
pub const FIRST: &str = address::EXTENSION[0];
pub const SECOND_REPLICA: &str = address::EXTENSION[1];

/// A running controller.
pub struct Controller {
    process: Process,
}

impl Controller {
    /// Starts one with this name and these flags more, and waits until it answers Envoy Gateway.
    pub async fn start(ground: &Ground, module: &[u8], replica: &str, more: &[&str]) -> Controller {
        Controller::start_at(FIRST, ground, module, replica, more).await
    }

    /// The same at another address.
    pub async fn start_at(
        at: &'static str,
        ground: &Ground,
        module: &[u8],
        replica: &str,
        more: &[&str],
    ) -> Controller {
        let file = ground.folder.join("controller.wasm");
        std::fs::write(&file, module).unwrap();
        let tls =
            secret_files(&ground.cluster, &ground.folder, "warmpath-system", "warmpath-controller-tls").await;
        let mut command = Command::new(program("warmpath-controller"));
        command
            .arg("serve")
            .arg(format!("--tls-cert={}", tls.join("tls.crt").display()))
            .arg(format!("--tls-key={}", tls.join("tls.key").display()))
            .arg(format!("--client-ca={}", tls.join("ca.crt").display()))
            .arg(format!("--module={}", file.display()))
            .arg(format!("--listen={at}:9443"))
            .arg(format!("--pages={at}:8088"))
            .arg(format!("--replica={replica}"))
            .args(more)
            .env("KUBECONFIG", ground.cluster.kubeconfig_of(CONTROLLER_TOKEN));
        let mut process = Process::start("warmpath-controller", &ground.logs(), &mut command);
        until("the controller's caches are full", async || {
            process.lives();
            (page(at, "/readyz").await?.status == StatusCode::OK).then_some(())
        })
        .await;
        Controller { process }
    }

    /// Ends it as when its node goes away.
    pub fn kill(self) {
        self.process.signal("KILL");
        self.process.end();
    }

    /// Holds it still: its connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.signal("CONT");
    }

    /// Its resident memory, bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

/// A page of the controller, nothing while it cannot be reached.
async fn page(at: &str, path: &str) -> Option<Reply> {
    let to = format!("{at}:8088").parse().unwrap();
    tokio::net::TcpStream::connect(to).await.ok()?;
    Request::get(path).try_open(to).await.ok()?.finish().await.ok()
}

/// The sum of a counter of the controller over its labels.
pub async fn count(at: &str, name: &str) -> f64 {
    let text = page(at, "/metrics").await.expect("the controller's metrics").text();
    let of_name = |line: &&str| line.starts_with(&format!("warmpath_controller_{name}"));
    text.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

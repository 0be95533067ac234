//! The cluster without Warmpath: etcd, the API server with the definitions of the Gateway API and of Envoy
//! Gateway, and nothing that would start a pod.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use warmpath_tests::target;

use crate::api::{CERTGEN_TOKEN, CONTROLLER_TOKEN, Cluster, NAMESPACE, TOKEN};
use crate::beginning;
use crate::process::Process;
use crate::sandbox::address;
use crate::wait::until;

/// Where everything of a run lies until the next one.
pub fn folder() -> PathBuf {
    target().join("kubernetes")
}

/// The running control plane of Kubernetes.
pub struct Ground {
    /// The programs.
    pub tools: PathBuf,
    /// Where everything of this run lies.
    pub folder: PathBuf,
    /// The API server.
    pub cluster: Cluster,
    etcd: Process,
    api_server: Option<Process>,
}

impl Ground {
    /// Starts all of it, and waits until the definitions are there. What was in `folder` is removed.
    pub async fn start(tools: &Path, folder: PathBuf) -> Ground {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("logs")).unwrap();
        let defined = beginning::copy(tools, &folder.join("etcd"));
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(folder.join("service-accounts.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("service-accounts.pub"), key.public_key_pem()).unwrap();
        let controller =
            "system:serviceaccount:warmpath-system:warmpath-controller,controller,system:authenticated";
        let certgen = "system:serviceaccount:warmpath-system:warmpath-certgen,certgen,system:authenticated";
        let tokens = [
            format!("{TOKEN},admin,admin,system:masters\n"),
            format!("{CONTROLLER_TOKEN},{controller}\n{CERTGEN_TOKEN},{certgen}\n"),
        ];
        let tokens = tokens.concat();
        std::fs::write(folder.join("tokens.csv"), tokens).unwrap();
        let etcd = Process::start(
            "etcd",
            &folder.join("logs"),
            Command::new(tools.join("etcd")).arg("--data-dir").arg(folder.join("etcd")).args([
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ]),
        );
        // Who writes what is told of the controller alone.
        let controller = "system:serviceaccount:warmpath-system:warmpath-controller";
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "users": [controller], "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
                {"level": "None"},
            ],
        });
        std::fs::write(folder.join("audit-policy.yaml"), policy.to_string()).unwrap();
        let cluster = Cluster::new(tools, &folder);
        let mut ground = Ground { tools: tools.to_owned(), folder, cluster, etcd, api_server: None };
        ground.start_api_server().await;
        if !defined {
            ground.define().await;
        }
        ground
    }

    /// Ends all of it in order, so that what etcd has kept is whole; the folder with that.
    pub fn end(self) -> PathBuf {
        drop(self.api_server);
        self.etcd.end();
        self.folder.join("etcd")
    }

    /// The folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// How a person reaches this cluster from another terminal.
    pub fn invitation(&self) -> String {
        format!(
            "nsenter --target $(pgrep --newest kubernetes-tests) --all -- env KUBECONFIG={} PATH={}:$PATH bash",
            self.cluster.kubeconfig().display(),
            self.tools.display()
        )
    }

    /// Starts the API server, which may have been stopped, and waits until it is ready.
    pub async fn start_api_server(&mut self) {
        let flag = |name: &str, file: &str| format!("--{name}={}", self.folder.join(file).display());
        let mut command = Command::new(self.tools.join("kube-apiserver"));
        command
            .args([
                "--etcd-servers=http://127.0.0.1:2379",
                "--secure-port=6443",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ])
            .arg(format!("--bind-address={}", address::API))
            .arg(format!("--advertise-address={}", address::API))
            .arg(flag("cert-dir", "certificates"))
            .arg(flag("token-auth-file", "tokens.csv"))
            .arg(flag("audit-policy-file", "audit-policy.yaml"))
            .arg(flag("audit-log-path", "logs/audit.log"))
            .arg(flag("service-account-key-file", "service-accounts.pub"))
            .arg(flag("service-account-signing-key-file", "service-accounts.key"));
        let mut server = Process::start("kube-apiserver", &self.logs(), &mut command);
        until("the API server is ready", async || {
            self.etcd.lives();
            server.lives();
            self.cluster.is_ready().await.then_some(())
        })
        .await;
        self.api_server = Some(server);
    }

    /// Holds the API server still: it accepts connections, and never answers.
    pub fn freeze_api_server(&self) {
        self.api_server.as_ref().unwrap().signal("STOP");
    }

    /// Lets it go on, and waits until it answers.
    pub async fn unfreeze_api_server(&self) {
        self.api_server.as_ref().unwrap().signal("CONT");
        until("the API server answers again", async || self.cluster.is_ready().await.then_some(())).await;
    }

    /// What the controller has written so far, by the API server's audit log: verb and object of each write,
    /// but not those of its lease, which it renews every two seconds.
    pub fn writes_of_the_controller(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.logs().join("audit.log")).unwrap_or_default();
        let written = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let others = written.filter(|each| each["objectRef"]["resource"] != "leases");
        others.map(|each| format!("{} {}", each["verb"], each["objectRef"])).collect()
    }

    /// Stops the API server, as when its node goes away.
    pub fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    async fn define(&self) {
        self.cluster.apply_file(&self.tools.join("crds")).await;
        self.cluster.apply(NAMESPACE, &json!({"metadata": {"name": "envoy-gateway-system"}})).await;
    }
}

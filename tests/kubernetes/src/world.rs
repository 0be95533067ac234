//! All that a case plays in: the cluster, Envoy Gateway, an Envoy, pods, the module and its server; and the
//! way back to the beginning for the next case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use warmpath_tests::{Answer, Finished, Reply, Request, TestPod, command, repository, target};

use crate::api::{
    BACKEND_POLICY, CLIENT_POLICY, Cluster, ENDPOINT_SLICE, ENVOY_PROXY, EXTENSION_POLICY, GATEWAY,
    GATEWAY_CLASS, HTTP_ROUTE, Kind, LEASE, PATCH_POLICY, SERVICE,
};
use crate::controller::Controller;
use crate::gateway::{Envoy, EnvoyGateway, configuration};
use crate::ground::Ground;
use crate::modules::{ModuleServer, port};
use crate::objects::{self, Is};
use crate::sandbox::address;
use crate::wait::until;

/// The label of what belongs to the Gateway `eg`.
pub const OF_EG: &str = "gateway.envoyproxy.io/owning-gateway-name=eg";
/// Envoy's name of the cluster behind the first rule of the route `routed`.
pub const POOL: &str = "httproute/default/routed/rule/0";

/// What may stand in the namespace `default`, and what of it stays from case to case.
const KINDS: [(Kind, &[&str]); 9] = [
    (PATCH_POLICY, &["warmpath", "warmpath-by-port"]),
    (EXTENSION_POLICY, &["warmpath"]),
    (BACKEND_POLICY, &["warmpath"]),
    (CLIENT_POLICY, &[]),
    (HTTP_ROUTE, &["plain", "routed"]),
    (GATEWAY, &["eg"]),
    (ENVOY_PROXY, &["eg", "warmpath"]),
    (SERVICE, &["vllm", "kubernetes"]),
    (ENDPOINT_SLICE, &[]),
];

/// Everything there is.
pub struct World {
    /// The cluster.
    pub ground: Ground,
    /// Envoy Gateway, unless a case has stopped it.
    pub gateway: Option<EnvoyGateway>,
    /// The Envoy of the Gateway `eg`, unless a case has stopped it.
    pub envoy: Option<Envoy>,
    /// The controller, while cases with InferencePools run.
    pub controller: Option<Controller>,
    /// The server of the modules.
    pub modules: ModuleServer,
    /// The module under test.
    pub module: Bytes,
    /// The pods that live, by number.
    pub pods: BTreeMap<u8, TestPod>,
    /// The policies that every case begins with, as they were applied first.
    policies: Vec<(Kind, Value)>,
    /// Envoy must be started anew before the next case: its clusters or its configuration were changed.
    spoilt: bool,
}

impl World {
    /// Starts all of it but Envoy, which each case begins with.
    pub async fn start(tools: &Path, module: Option<&Path>, folder: PathBuf) -> World {
        let module = self::module(module);
        let ground = Ground::start(tools, folder).await;
        let modules = ModuleServer::start().await;
        let gateway = EnvoyGateway::start(&ground, &configuration(json!({}))).await;
        World {
            ground,
            gateway: Some(gateway),
            envoy: None,
            controller: None,
            modules,
            module,
            pods: BTreeMap::new(),
            policies: Vec::new(),
            spoilt: true,
        }
    }

    /// The API server.
    pub fn cluster(&self) -> &Cluster {
        &self.ground.cluster
    }

    /// The Envoy.
    pub fn envoy(&self) -> &Envoy {
        self.envoy.as_ref().expect("this case has stopped Envoy")
    }

    /// Says that the next case needs a new Envoy, and all objects again.
    pub fn spoilt(&mut self) {
        self.spoilt = true;
    }

    /// All objects again as in the beginning, after a case that has changed nothing of Envoy's clusters and
    /// of the module.
    pub async fn rewrite(&mut self) {
        self.restore().await;
        self.attach_as_before().await;
    }

    /// Whether a case has said so since it was last asked.
    pub fn was_spoilt(&mut self) -> bool {
        std::mem::take(&mut self.spoilt)
    }

    /// Back to the beginning: three new pods behind the Service `vllm`, the two routes, Warmpath attached to
    /// one of them.
    pub async fn reset(&mut self) {
        if self.spoilt || self.envoy.is_none() || self.controller.is_some() {
            self.reset_without_envoy().await;
            self.start_envoy().await;
            self.spoilt = false;
        } else {
            self.renew_pods().await;
            self.gateway_lives(json!({})).await;
            self.cluster().apply(ENDPOINT_SLICE, &objects::endpoints("vllm", &ready(&[11, 12, 13]))).await;
        }
        self.is_served().await;
    }

    /// The same without an Envoy.
    pub async fn reset_without_envoy(&mut self) {
        self.spoilt = true;
        if let Some(envoy) = self.envoy.take() {
            envoy.end();
        }
        self.renew_pods().await;
        if self.controller.take().is_some() {
            self.stop_gateway().await;
        }
        self.gateway_lives(json!({})).await;
        self.rewrite().await;
    }

    /// Waits until chats go to three pods that Warmpath knows.
    async fn is_served(&self) {
        self.envoy().knows(POOL, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
        self.is_routed().await;
        self.is_seen().await;
    }

    /// Three new pods in place of those that live.
    pub async fn renew_pods(&mut self) {
        self.end_pods().await;
        self.start_pods(&[11, 12, 13]).await;
    }

    /// Starts Envoy Gateway where there is none, or one that has lost its lease and has stopped: on a busy
    /// machine it may not renew it in time, and the kubelet would start it anew.
    pub async fn gateway_lives(&mut self, more: Value) {
        let dead = match &self.gateway {
            Some(gateway) => gateway.is_dead().await,
            None => true,
        };
        if dead {
            self.start_gateway(more).await;
        }
    }

    /// Attaches Warmpath as in the first case: the script prints it once, and afterwards the objects are made
    /// what they were.
    async fn attach_as_before(&mut self) {
        if !self.policies.is_empty() {
            self.publish(&self.module);
            for (kind, object) in &self.policies {
                self.cluster().replace(*kind, object).await;
            }
            return;
        }
        self.attach(&[]).await;
        // In the order in which they are printed.
        for kind in [PATCH_POLICY, EXTENSION_POLICY, BACKEND_POLICY] {
            for mut object in self.cluster().list(kind, "default", "").await {
                let metadata = object["metadata"].as_object_mut().unwrap();
                metadata.retain(|field, _| {
                    ["name", "namespace", "labels", "annotations"].contains(&field.as_str())
                });
                object.as_object_mut().unwrap().remove("status");
                self.policies.push((kind, object));
            }
        }
    }

    /// Waits until Warmpath has read the load of every pod that lives, as it is now: the first page of a new
    /// process at an address counts when a second one tells the same.
    pub async fn is_seen(&self) {
        join_all(self.pods.values().map(|pod| pod.scraped(3))).await;
        self.envoy().has_ready(self.pods.len()).await;
    }

    /// Takes away what a case has left, and writes what every case begins with.
    pub async fn restore(&mut self) {
        let cluster = self.cluster();
        cluster.keep_only(&KINDS).await;
        cluster.apply(SERVICE, &objects::service("vllm")).await;
        cluster.apply(ENDPOINT_SLICE, &objects::endpoints("vllm", &ready(&[11, 12, 13]))).await;
        cluster.apply(GATEWAY_CLASS, &objects::gateway_class()).await;
        cluster.replace(ENVOY_PROXY, &objects::envoy_proxy(json!({}))).await;
        cluster.replace(GATEWAY, &objects::gateway()).await;
        cluster.replace(HTTP_ROUTE, &objects::route("plain", "plain", &[("/", "vllm")])).await;
        cluster.replace(HTTP_ROUTE, &objects::route("routed", "routed", &[("/", "vllm")])).await;
    }

    /// Puts a module where Envoy Gateway gets it, and into a file: its URL, and the file.
    pub fn publish(&self, module: &Bytes) -> (String, PathBuf) {
        let file = self.ground.folder.join("module.wasm");
        std::fs::write(&file, module).unwrap();
        (self.modules.put(module), file)
    }

    /// Prints the policies for the Gateway and its route, as a user does, with these flags more.
    pub async fn print(&self, module: &Bytes, flags: &[&str]) -> Finished {
        let (url, file) = self.publish(module);
        let mut arguments = vec![
            "--gateway=eg",
            "--listener=routed",
            "--module-url",
            &url,
            "--module",
            file.to_str().unwrap(),
        ];
        if !flags.iter().any(|flag| flag.starts_with("--route") || flag.starts_with("--selector")) {
            arguments.push("--route=routed");
        }
        arguments.extend(flags);
        self.manifests(&arguments).await
    }

    /// `scripts/kubernetes-manifests` against this cluster.
    pub async fn manifests(&self, arguments: &[&str]) -> Finished {
        self.script("scripts/kubernetes-manifests", arguments).await
    }

    /// A script whose kubectl talks to this cluster. Clients and pods of the case go on meanwhile.
    pub async fn script(&self, script: &str, arguments: &[&str]) -> Finished {
        let kubectl = format!(
            "{} --kubeconfig {}",
            self.ground.tools.join("kubectl").display(),
            self.cluster().kubeconfig().display()
        );
        let script = script.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|&each| each.to_owned()).collect();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            // What lives for a moment has nothing to collect.
            command(&script, &arguments, &[("KUBECTL", &kubectl), ("GOGC", "off")])
        };
        tokio::task::spawn_blocking(run).await.expect("the script's thread")
    }

    /// Waits until `--check` ends with this code and prints this. It is asked twice a second, as it is a few
    /// processes each time.
    pub async fn checks(&self, code: i32, line: &str) {
        warmpath_tests::until_resting(
            |_| Duration::from_millis(500),
            &format!("the check says {line}"),
            async || {
                let checked = self.check().await;
                (checked.code == code && checked.out.contains(line)).then_some(())
            },
        )
        .await;
    }

    /// `--check` of what [`World::print`] printed.
    pub async fn check(&self) -> Finished {
        self.manifests(&["--gateway=eg", "--listener=routed", "--route=routed", "--check"]).await
    }

    /// Prints the policies and applies them: the first time as a user does, and later without a process for
    /// it.
    pub async fn attach(&mut self, flags: &[&str]) {
        let module = self.module.clone();
        self.attach_module(&module, flags).await;
    }

    /// The same with another module.
    pub async fn attach_module(&mut self, module: &Bytes, flags: &[&str]) {
        let printed = self.print(module, flags).await;
        assert_eq!(printed.code, 0, "{}", printed.err);
        if self.policies.is_empty() {
            self.cluster().pipe(&["apply"], &printed.out).await;
        } else {
            self.cluster().replace_all(&printed.out).await;
        }
    }

    /// Starts Envoy Gateway with additions to its configuration.
    pub async fn start_gateway(&mut self, more: Value) {
        self.stop_gateway().await;
        self.gateway = Some(EnvoyGateway::start(&self.ground, &configuration(more)).await);
    }

    /// Stops Envoy Gateway. It does not give its lease back, and its successor would wait 15 s for it before
    /// it writes what it has to write; so the lease goes too.
    pub async fn stop_gateway(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.end();
            self.cluster().delete_all(LEASE, "envoy-gateway-system", "").await;
        }
    }

    /// Starts the Envoy of the Gateway `eg`.
    pub async fn start_envoy(&mut self) {
        if let Some(envoy) = self.envoy.take() {
            envoy.end();
        }
        self.envoy = Some(Envoy::start(&self.ground, OF_EG, "envoy-gateway-system").await);
    }

    /// Starts pods with these numbers; one that lives already is replaced.
    pub async fn start_pods(&mut self, numbers: &[u8]) {
        for &number in numbers {
            if let Some(mut old) = self.pods.remove(&number) {
                old.kill().await;
            }
            self.pods.insert(number, test_pod(&at(number)).await);
        }
    }

    /// Ends all pods; their addresses are free when it comes back.
    pub async fn end_pods(&mut self) {
        for pod in self.pods.values_mut() {
            pod.kill().await;
        }
        self.pods.clear();
    }

    /// Writes the endpoints of the Service `vllm`.
    pub async fn endpoints(&self, pods: &[(u8, Is)]) {
        self.cluster().apply(ENDPOINT_SLICE, &objects::endpoints("vllm", pods)).await;
    }

    /// Waits until chats are answered on the routed port by a pod that Warmpath named.
    pub async fn is_routed(&self) {
        until("a chat is routed by Warmpath", async || {
            let opened = Request::chat("Are you there?").try_open(routed()).await.ok()?;
            let reply = opened.finish().await.ok()?;
            let received = self.pod_of(&reply)?.received();
            received.last()?.headers.contains_key("x-warmpath-destination").then_some(())
        })
        .await;
    }

    /// The pod that gave an answer, if one of these did.
    pub fn pod_of(&self, reply: &Reply) -> Option<&TestPod> {
        let address = reply.header("x-test-pod")?;
        self.pods.values().find(|pod| pod.address() == address)
    }

    /// How many requests each pod has got so far.
    pub fn counts(&self) -> BTreeMap<u8, usize> {
        self.pods.iter().map(|(&number, pod)| (number, pod.received().len())).collect()
    }
}

/// The module under test: that of the file, else the one that was built last.
pub fn module(file: Option<&Path>) -> Bytes {
    let file = file.map_or_else(|| target().join("warmpath.wasm"), PathBuf::from);
    let bytes = std::fs::read(&file);
    bytes.unwrap_or_else(|error| panic!("{}: {error}; scripts/build makes it", file.display())).into()
}

/// A pod that answers like a small model.
pub async fn test_pod(address: &str) -> TestPod {
    let pod = TestPod::at(address).await;
    pod.answer_all(|| Answer::Tokens {
        first: Duration::from_millis(5),
        each: Duration::from_millis(1),
        tokens: 3,
        cut: None,
    });
    pod
}

/// Pods that are ready.
pub fn ready(numbers: &[u8]) -> Vec<(u8, Is)> {
    numbers.iter().map(|&number| (number, Is::Ready)).collect()
}

/// Address and port of a pod.
pub fn at(number: u8) -> String {
    format!("{}:8000", address::pod(number))
}

/// The port that Warmpath routes.
pub fn routed() -> std::net::SocketAddr {
    port(8081)
}

/// The port of plain Envoy.
pub fn plain() -> std::net::SocketAddr {
    port(8080)
}

/// A file of `tests/kubernetes/inputs`.
pub fn input(name: &str) -> String {
    let path = repository().join("tests/kubernetes/inputs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

//! The part of a node that the conformance suite needs: pods are processes of this machine, each pod in a
//! network namespace of its own, at an address of its own.
//!
//! Deployments, ReplicaSets and EndpointSlices come from a real kube-controller-manager. A container runs
//! where there is a program for its image; the others (Envoy's shutdown manager, and the suite's endpoint
//! pickers, whom nobody asks) start nothing and count as ready.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Request as Raw};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use warmpath_tests::Request;

use crate::api::NODE;
use crate::container::{self, Identity};
use crate::ground::Ground;
use crate::process::Process;
use crate::sandbox::{address, run};

/// The name of the one node.
const HERE: &str = "here";
/// The device that all pods are plugged into.
const BRIDGE: &str = "pods0";
const LOOK: Duration = Duration::from_millis(200);
const PROBE: Duration = Duration::from_secs(1);

/// A node and its pods.
pub struct Kubelet<'a> {
    ground: &'a Ground,
    pods: BTreeMap<String, Running>,
    started: u8,
}

/// A pod that runs. Dropping it ends its processes, and with the first of them its network.
struct Running {
    address: String,
    containers: Vec<Process>,
    /// Where each probe asks: port, and path for one over HTTP.
    probes: Vec<(u16, Option<String>)>,
    _network: Process,
}

impl<'a> Kubelet<'a> {
    /// A node without pods, ready.
    pub async fn new(ground: &'a Ground) -> Kubelet<'a> {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
        run("ip", &["addr", "add", &format!("{}/24", address::NODE), "dev", BRIDGE]);
        run("ip", &["link", "set", BRIDGE, "up"]);
        // Envoys reach Envoy Gateway, which has a network namespace too.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let labels = json!({"kubernetes.io/hostname": HERE});
        ground.cluster.apply(NODE, &json!({"metadata": {"name": HERE, "labels": labels}})).await;
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        ground.cluster.patch_status(NODE, "", HERE, ready).await;
        Kubelet { ground, pods: BTreeMap::new(), started: 0 }
    }

    /// Starts, probes and ends pods, for ever.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.round().await {
                eprintln!("the kubelet: {error}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn round(&mut self) -> kube::Result<()> {
        let all: Api<Pod> = Api::all(self.ground.cluster.client());
        let pods = all.list(&ListParams::default()).await?.items;
        self.pods.retain(|id, _| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(id)));
        for pod in pods {
            match self.step(&pod).await {
                // Somebody has taken it away meanwhile.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn step(&mut self, pod: &Pod) -> kube::Result<()> {
        let (Some(id), Some(namespace), Some(name)) =
            (&pod.metadata.uid, &pod.metadata.namespace, &pod.metadata.name)
        else {
            return Ok(());
        };
        let api: Api<Pod> = Api::namespaced(self.ground.cluster.client(), namespace);
        if pod.metadata.deletion_timestamp.is_some() {
            self.pods.remove(id);
            return api.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop);
        }
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            None => return self.bind(namespace, name).await,
            Some(node) if node != HERE => return Ok(()),
            Some(_) => {}
        }
        if !self.pods.contains_key(id) {
            let running = self.start(pod, namespace, name).await;
            self.pods.insert(id.clone(), running);
        }
        let running = &self.pods[id];
        let status = running.status(running.is_ready().await);
        let before = serde_json::to_value(&pod.status).unwrap();
        if before["podIP"] == status["podIP"] && ready(&before) == ready(&status) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// What the scheduler does.
    async fn bind(&self, namespace: &str, name: &str) -> kube::Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": HERE},
        });
        let request = Raw::new(format!("/api/v1/namespaces/{namespace}/pods"))
            .create_subresource("binding", name, &PostParams::default(), binding.to_string().into_bytes())
            .map_err(kube::Error::BuildRequest)?;
        self.ground.cluster.client().request::<Value>(request).await.map(drop)
    }

    async fn start(&mut self, pod: &Pod, namespace: &str, name: &str) -> Running {
        self.started += 1;
        let address = address::of_running_pod(self.started);
        let network = network(self.ground, self.started, &address).await;
        let mut running = Running { address, containers: Vec::new(), probes: Vec::new(), _network: network };
        let spec = pod.spec.as_ref().unwrap();
        let spec_json = serde_json::to_value(spec).unwrap();
        for container in &spec.containers {
            let Some(program) = self.program(container) else { continue };
            let identity = Identity { namespace, name, address: &running.address };
            let json = serde_json::to_value(container).unwrap();
            let inner = container::command(self.ground, &identity, &spec_json, &json, &program).await;
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{}/ns/net", running._network.id()));
            command.arg("--").arg(inner.get_program()).args(inner.get_args());
            command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let log = format!("{name}-{}", container.name);
            running.containers.push(Process::start(&log, &self.ground.logs(), &mut command));
            running.probes.extend(container.readiness_probe.as_ref().and_then(probe));
        }
        running
    }

    /// The program of a container's image.
    fn program(&self, container: &Container) -> Option<PathBuf> {
        let image = container.image.as_deref()?.rsplit('/').next()?.split(':').next()?;
        matches!(image, "envoy" | "echo-basic").then(|| self.ground.tools.join(image))
    }
}

impl Running {
    async fn is_ready(&self) -> bool {
        for (port, path) in &self.probes {
            let to = format!("{}:{port}", self.address).parse().unwrap();
            let asks = async {
                let connected = TcpStream::connect(to).await.is_ok();
                match path {
                    Some(path) if connected => {
                        let opened = Request::get(path).try_open(to).await;
                        opened.is_ok_and(|answer| answer.status.as_u16() < 400)
                    }
                    _ => connected,
                }
            };
            if !tokio::time::timeout(PROBE, asks).await.unwrap_or(false) {
                return false;
            }
        }
        true
    }

    fn status(&self, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        json!({
            "phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}], "hostIP": address::NODE,
            "conditions": [
                condition("PodScheduled", "True"), condition("Initialized", "True"),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
        })
    }
}

/// The condition Ready of a pod's status.
fn ready(status: &Value) -> Option<&Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|each| each["type"] == "Ready").map(|each| &each["status"])
}

/// Where a probe asks.
fn probe(probe: &Probe) -> Option<(u16, Option<String>)> {
    let number = |port: &IntOrString| match port {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(_) => None,
    };
    if let Some(http) = &probe.http_get {
        return Some((number(&http.port)?, Some(http.path.clone().unwrap_or_else(|| "/".into()))));
    }
    probe.tcp_socket.as_ref().and_then(|tcp| Some((number(&tcp.port)?, None)))
}

/// A network namespace with an address on the bridge. It lives as long as the process that holds it.
async fn network(ground: &Ground, number: u8, address: &str) -> Process {
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "infinity"]);
    let holder = Process::start("pods", &ground.logs(), &mut command);
    let id = holder.id().to_string();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    crate::wait::until("a pod has its network namespace", async || {
        (std::fs::read_link(format!("/proc/{id}/ns/net")).ok()? != own).then_some(())
    })
    .await;
    let device = format!("pod{number}");
    run("ip", &["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &id]);
    run("ip", &["link", "set", &device, "master", BRIDGE, "up"]);
    let net = format!("--net=/proc/{id}/ns/net");
    let script = format!(
        "ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {}",
        address::NODE
    );
    run("nsenter", &[&net, "--", "sh", "-c", &script]);
    holder
}

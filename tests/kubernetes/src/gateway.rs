//! Envoy Gateway as its Deployment would run it, and Envoy as the Deployment that Envoy Gateway writes for it
//! says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use warmpath_tests::{Reply, Request};

use crate::api::{Cluster, DEPLOYMENT, ENDPOINT_SLICE, POD, SECRET, SERVICE, TOKEN};
use crate::container::{self, Identity, secret_files};
use crate::ground::Ground;
use crate::modules::port;
use crate::process::Process;
use crate::sandbox::{address, run};
use crate::wait::until;

const SYSTEM: &str = "envoy-gateway-system";
/// The label of Envoy's pods.
const ENVOYS: (&str, &str) = ("warmpath.dev/test", "envoy");
/// How many Envoys were started: each has a name of its own, as a pod and as a node, as those of a Deployment
/// have. By an old name the API server may know an older pod for a moment, and take a token of the new one
/// for a forgery.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running Envoy Gateway, in a network namespace of its own: it listens on ports that Envoy wants too.
pub struct EnvoyGateway {
    process: Process,
}

/// What `envoy-gateway.yaml` says; `more` is added.
pub fn configuration(more: Value) -> Value {
    let mut document = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
        // The injector would write into Pods that are not there.
        "provider": {"type": "Kubernetes", "kubernetes": {"proxyTopologyInjector": {"disabled": true}}},
        "logging": {"level": {"default": "info"}},
        "extensionApis": {"enableEnvoyPatchPolicy": true, "enableLua": true},
    });
    crate::objects::merge(&mut document, more);
    document
}

/// How Envoy Gateway knows where it is.
fn environment(ground: &Ground) -> [(&'static str, OsString); 5] {
    [
        ("KUBECONFIG", ground.cluster.kubeconfig().into()),
        ("ENVOY_GATEWAY_NAMESPACE", SYSTEM.into()),
        ("KUBERNETES_CLUSTER_DOMAIN", "cluster.local".into()),
        ("KUBERNETES_SERVICE_HOST", address::API.into()),
        ("KUBERNETES_SERVICE_PORT", "6443".into()),
    ]
}

/// Makes the certificates of Envoy Gateway and of Envoys, where there are none.
pub async fn certify(ground: &Ground) {
    if ground.cluster.get(SECRET, SYSTEM, "envoy-gateway").await.is_none() {
        let done = Command::new(ground.tools.join("envoy-gateway"))
            .args(["certgen", "--disable-topology-injector"])
            .envs(environment(ground))
            .output()
            .unwrap();
        assert!(done.status.success(), "certgen: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl EnvoyGateway {
    /// Starts it with this configuration, and waits until it serves Envoys.
    pub async fn start(ground: &Ground, configuration: &Value) -> EnvoyGateway {
        certify(ground).await;
        let program = ground.tools.join("envoy-gateway");
        let certificates = secret_files(&ground.cluster, &ground.folder, SYSTEM, "envoy-gateway").await;
        let config = ground.folder.join("envoy-gateway-config");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::write(config.join("envoy-gateway.yaml"), configuration.to_string()).unwrap();
        // What a pod has of its ServiceAccount.
        let account = ground.folder.join("service-account");
        std::fs::create_dir_all(&account).unwrap();
        std::fs::write(account.join("token"), TOKEN).unwrap();
        std::fs::copy(ground.folder.join("certificates/apiserver.crt"), account.join("ca.crt")).unwrap();
        let (here, there) = address::LINK;
        let script = format!(
            r#"set -e
mount --make-rprivate /
mount --bind "$1" /certs
mount --bind "$2" /config
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/eg/wasm
mount -t tmpfs tmpfs /run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$3" /var/run/secrets/kubernetes.io/serviceaccount
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip addr add {there}/30 dev eth0
ip link set eth0 up
ip route add default via {here}
exec "$4" server --config-path=/config/envoy-gateway.yaml"#
        );
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "sh", "-c", &script, "envoy-gateway"])
            .args([&certificates, &config, &account, &program])
            .envs(environment(ground));
        let mut process = Process::start("envoy-gateway", &ground.logs(), &mut command);
        let id = process.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        until("Envoy Gateway has its network namespace", async || {
            (std::fs::read_link(format!("/proc/{id}/ns/net")).ok()? != own).then_some(())
        })
        .await;
        // One that was here before may not be gone yet.
        let _ = Command::new("ip").args(["link", "del", "gateway0"]).output();
        run("ip", &["link", "add", "gateway0", "type", "veth", "peer", "name", "eth0", "netns", &id]);
        run("ip", &["addr", "add", &format!("{here}/30"), "dev", "gateway0"]);
        run("ip", &["link", "set", "gateway0", "up"]);
        until("Envoy Gateway serves", async || {
            process.lives();
            tokio::net::TcpStream::connect((there, 18000)).await.ok()
        })
        .await;
        EnvoyGateway { process }
    }

    /// Ends it.
    pub fn end(self) {
        self.process.end();
    }

    /// Whether the kubelet would start it anew: nobody answers its liveness probe, as when it has lost its
    /// lease.
    pub async fn is_dead(&self) -> bool {
        tokio::net::TcpStream::connect((address::LINK.1, 8081)).await.is_err()
    }

    /// Ends it as when its node goes away.
    pub fn kill(self) {
        self.process.signal("KILL");
        self.process.end();
    }
}

/// A running Envoy of a Gateway.
pub struct Envoy {
    process: Option<Process>,
    /// What starts it, as a kubelet keeps it.
    command: Command,
    folder: PathBuf,
    /// What its Deployment's container would write to standard output: the access log, and nothing else.
    pub access_log: PathBuf,
    log: PathBuf,
    /// Where the log of this process begins in the file, which all of them share.
    from: u64,
}

impl Envoy {
    /// Starts the container `envoy` of the Deployment that belongs to the Gateway or class that `label`
    /// names, and waits until it says that it is ready, and listens where every case has a listener.
    pub async fn start(ground: &Ground, label: &str, namespace: &str) -> Envoy {
        let mut envoy = Envoy::begin(ground, label, namespace).await;
        envoy.is_ready().await;
        envoy
    }

    /// Starts its container anew, as a kubelet does without an API server, and waits until it is ready.
    pub async fn restart(&mut self) {
        drop(self.process.take());
        self.launch();
        self.is_ready().await;
    }

    fn launch(&mut self) {
        let (folder, output) = (&self.folder, &self.access_log);
        self.process = Some(Process::start_with_output("envoy", folder, output, &mut self.command));
    }

    async fn is_ready(&mut self) {
        until("Envoy is ready", async || {
            self.process.as_mut().unwrap().lives();
            (self.admin("/ready").await?.text().trim() == "LIVE").then_some(())
        })
        .await;
        // Envoy Gateway may tell it of the listeners a moment after it has told it of nothing.
        until("Envoy listens", async || tokio::net::TcpStream::connect(port(8081)).await.ok()).await;
    }

    /// The same without waiting until it is ready.
    pub async fn begin(ground: &Ground, label: &str, namespace: &str) -> Envoy {
        let cluster = &ground.cluster;
        let deployment = until("Envoy Gateway has written Envoy's Deployment", async || {
            cluster.list(DEPLOYMENT, namespace, label).await.pop()
        })
        .await;
        let service =
            until("and its Service", async || cluster.list(SERVICE, namespace, label).await.pop()).await;
        endpoints_of_envoy(cluster, &service).await;
        let pod = &deployment["spec"]["template"]["spec"];
        let containers = pod["containers"].as_array().unwrap();
        let container = containers.iter().find(|each| each["name"] == "envoy").unwrap();
        // A token belongs to the Pod, without which Envoy Gateway does not know whose it is.
        let account = &pod["serviceAccountName"];
        let name = format!("envoy-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let (key, value) = ENVOYS;
        let object = json!({
            "metadata": {"name": name, "namespace": namespace, "labels": {key: value}},
            "spec": {"serviceAccountName": account, "nodeName": "here", "containers": [{"name": "envoy", "image": "none"}]},
        });
        cluster.delete_all(POD, namespace, &format!("{key}={value}")).await;
        cluster.apply(POD, &object).await;
        let identity = Identity { namespace, name: &name, address: address::ENVOY };
        let program = ground.tools.join("envoy");
        let mut command = container::command(ground, &identity, pod, container, &program).await;
        // Its own ten seconds are too long to wait for a line of the access log.
        command.args(["--file-flush-interval-msec", "20"]);
        let folder = ground.logs();
        let [log, access_log] = ["envoy.log", "access.log"].map(|file| folder.join(file));
        let from = std::fs::metadata(&log).map_or(0, |file| file.len());
        let mut envoy = Envoy { process: None, command, folder, access_log, log, from };
        envoy.launch();
        envoy
    }

    /// What a page of Envoy's admin interface says; nothing while it cannot be reached.
    pub async fn admin(&self, path: &str) -> Option<Reply> {
        let to: SocketAddr = "127.0.0.1:19000".parse().unwrap();
        tokio::net::TcpStream::connect(to).await.ok()?;
        Request::get(path).try_open(to).await.ok()?.finish().await.ok()
    }

    /// The listeners in force, as JSON; those that drain are older.
    pub async fn listeners(&self) -> String {
        let dump =
            self.admin("/config_dump?resource=dynamic_listeners").await.expect("Envoy's admin page").json();
        let empty = Vec::new();
        let found =
            dump["configs"].as_array().unwrap_or(&empty).iter().map(|each| each["active_state"].to_string());
        found.collect()
    }

    /// A counter or gauge; 0 if there is none.
    pub async fn stat(&self, name: &str) -> u64 {
        let page = self
            .admin(&format!("/stats?filter=^{}$", name.replace('.', "\\.")))
            .await
            .expect("Envoy's admin page")
            .text();
        page.trim().rsplit_once(": ").map_or(0, |(_, value)| value.parse().unwrap())
    }

    /// How often a cluster has sent to all of its pods, ready or not: Envoy's panic mode.
    pub async fn panics(&self, cluster: &str) -> u64 {
        self.stat(&format!("cluster.{cluster}.lb_healthy_panic")).await
    }

    /// How often a listener has changed: a change ends long streams after its drain time.
    pub async fn listener_changes(&self) -> u64 {
        self.stat("listener_manager.listener_modified").await
    }

    /// How many requests at this port went to a cluster that Envoy does not have.
    pub async fn without_cluster(&self, port: SocketAddr) -> u64 {
        self.stat(&format!("http.http-{}.no_cluster", port.port())).await
    }

    /// The sum of the counters whose names end so.
    pub async fn stat_sum(&self, end: &str) -> u64 {
        let page = self.admin(&format!("/stats?filter={end}$")).await.expect("Envoy's admin page").text();
        page.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum()
    }

    /// The sum of a metric of Warmpath over its labels, as Prometheus would read it; nothing if there is
    /// none.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        // Of all series Envoy makes a page for many milliseconds.
        let path = format!("/stats/prometheus?filter={name}");
        let page = self.admin(&path).await.expect("Envoy's admin page").text();
        let samples =
            page.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).reduce(|a, b| a + b)
    }

    /// The hosts of a cluster, `address:port`, with their health as the endpoints have it.
    pub async fn hosts(&self, cluster: &str) -> BTreeMap<String, String> {
        let page = self
            .admin(&format!("/clusters?format=json&filter=^{cluster}$"))
            .await
            .expect("Envoy's admin page")
            .json();
        let empty = Vec::new();
        let clusters = page["cluster_statuses"].as_array().unwrap_or(&empty);
        let hosts = clusters.iter().flat_map(|cluster| cluster["host_statuses"].as_array().unwrap_or(&empty));
        hosts
            .map(|host| {
                let at = &host["address"]["socket_address"];
                let address = format!("{}:{}", at["address"].as_str().unwrap(), at["port_value"]);
                (address, host["health_status"]["eds_health_status"].as_str().unwrap_or("?").to_owned())
            })
            .collect()
    }

    /// Whether a cluster has exactly these hosts.
    pub async fn has(&self, cluster: &str, hosts: &[(String, &str)]) -> bool {
        let wanted = hosts.iter().map(|(host, health)| (host.clone(), (*health).to_owned())).collect();
        self.hosts(cluster).await == wanted
    }

    /// Waits until a cluster has exactly these hosts.
    pub async fn knows(&self, cluster: &str, hosts: &[(String, &str)]) {
        until(&format!("Envoy knows {hosts:?} of {cluster}"), async || {
            self.has(cluster, hosts).await.then_some(())
        })
        .await;
    }

    /// Waits until so many pods are ready to Warmpath, in all pools together.
    pub async fn has_ready(&self, pods: usize) {
        until(&format!("{pods} pods are ready to Warmpath"), async || {
            (self.metric("warmpath_ready_pods").await == Some(pods as f64)).then_some(())
        })
        .await;
    }

    /// What this process has written so far.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.from as usize..).unwrap_or_default()).into_owned()
    }

    /// Ends it.
    pub fn end(self) {
        drop(self.process);
    }
}

/// Without endpoints of Envoy's own Service its bootstrap waits 15 s for them.
async fn endpoints_of_envoy(cluster: &Cluster, service: &Value) {
    let ports: Vec<Value> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| json!({"name": port["name"], "port": port["port"], "protocol": port["protocol"]}))
        .collect();
    let (name, namespace) = (&service["metadata"]["name"], &service["metadata"]["namespace"]);
    cluster
        .apply(
            ENDPOINT_SLICE,
            &json!({
                "metadata": {
                    "name": format!("{}-1", name.as_str().unwrap()), "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [{
                    "addresses": [address::ENVOY],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                }],
            }),
        )
        .await;
}

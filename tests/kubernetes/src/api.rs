//! The API server, as a user with every right: objects as JSON through the `kube` crate, files through
//! kubectl as people type it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::sandbox::address;
use crate::wait::until;

/// The token of the one user there is.
pub const TOKEN: &str = "tests-admin";

/// The token of the controller, which has the rights that the manifests give to its service account and no
/// others.
pub const CONTROLLER_TOKEN: &str = "tests-controller";

/// A kind as the API server has it: group, version, kind, plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub &'static str, pub &'static str, pub &'static str, pub &'static str);

/// The token of the Job that makes the controller's certificates, likewise.
pub const CERTGEN_TOKEN: &str = "tests-certgen";

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const OLD_INFERENCE: &str = "inference.networking.x-k8s.io";
const ENVOY_GATEWAY: &str = "gateway.envoyproxy.io";

/// Core and its neighbours.
pub const NAMESPACE: Kind = Kind("", "v1", "Namespace", "namespaces");
pub const NODE: Kind = Kind("", "v1", "Node", "nodes");
pub const POD: Kind = Kind("", "v1", "Pod", "pods");
pub const SERVICE: Kind = Kind("", "v1", "Service", "services");
pub const SECRET: Kind = Kind("", "v1", "Secret", "secrets");
pub const CONFIG_MAP: Kind = Kind("", "v1", "ConfigMap", "configmaps");
pub const ENDPOINT_SLICE: Kind = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
pub const EVENT: Kind = Kind("", "v1", "Event", "events");
pub const LEASE: Kind = Kind("coordination.k8s.io", "v1", "Lease", "leases");
pub const DEPLOYMENT: Kind = Kind("apps", "v1", "Deployment", "deployments");
pub const CRD: Kind =
    Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
/// The Gateway API.
pub const GATEWAY_CLASS: Kind = Kind(GATEWAY_API, "v1", "GatewayClass", "gatewayclasses");
pub const GATEWAY: Kind = Kind(GATEWAY_API, "v1", "Gateway", "gateways");
pub const HTTP_ROUTE: Kind = Kind(GATEWAY_API, "v1", "HTTPRoute", "httproutes");
/// Envoy Gateway's policies.
pub const ENVOY_PROXY: Kind = Kind(ENVOY_GATEWAY, "v1alpha1", "EnvoyProxy", "envoyproxies");
pub const PATCH_POLICY: Kind = Kind(ENVOY_GATEWAY, "v1alpha1", "EnvoyPatchPolicy", "envoypatchpolicies");
pub const EXTENSION_POLICY: Kind =
    Kind(ENVOY_GATEWAY, "v1alpha1", "EnvoyExtensionPolicy", "envoyextensionpolicies");
pub const BACKEND_POLICY: Kind =
    Kind(ENVOY_GATEWAY, "v1alpha1", "BackendTrafficPolicy", "backendtrafficpolicies");
pub const CLIENT_POLICY: Kind =
    Kind(ENVOY_GATEWAY, "v1alpha1", "ClientTrafficPolicy", "clienttrafficpolicies");

/// The Gateway API Inference Extension, both groups.
pub const POOL: Kind = Kind("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools");
pub const OLD_POOL: Kind = Kind(OLD_INFERENCE, "v1alpha2", "InferencePool", "inferencepools");
pub const MODEL: Kind = Kind(OLD_INFERENCE, "v1alpha2", "InferenceModel", "inferencemodels");
pub const OBJECTIVE: Kind = Kind(OLD_INFERENCE, "v1alpha2", "InferenceObjective", "inferenceobjectives");
/// Warmpath's own.
pub const ROUTED_POOL: Kind = Kind("warmpath.dev", "v1alpha1", "RoutedPool", "routedpools");

/// A client of the API server.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// A client, and a kubeconfig in `folder` for programs.
    pub fn new(tools: &Path, folder: &Path) -> Cluster {
        let server = format!("https://{}:6443", address::API);
        let kubeconfig = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let mut config = kube::Config::new(server.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        // While several clusters begin at once, the API server may compute that long over definitions.
        config.read_timeout = Some(Duration::from_secs(60));
        let client = kube::Client::try_from(config).unwrap();
        Cluster { client, kubectl: tools.join("kubectl"), kubeconfig }
    }

    /// The path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig like it for the user of another token.
    pub fn kubeconfig_of(&self, token: &str) -> PathBuf {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap().replace(TOKEN, token);
        let file = self.kubeconfig.with_extension(token);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Whether the API server answers that it is ready.
    pub async fn is_ready(&self) -> bool {
        let request = hyper::Request::get("/readyz").body(Vec::new()).unwrap();
        self.client.request_text(request).await.is_ok()
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let Kind(group, version, name, plural) = kind;
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
        self.api_of(&resource, namespace)
    }

    fn api_of(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), resource),
            _ => Api::namespaced_with(self.client.clone(), namespace, resource),
        }
    }

    /// Makes an object, or makes it what `object` says; its kind is looked up by its name.
    pub async fn apply(&self, kind: Kind, object: &Value) {
        apply_to(&self.api_for(kind, object), &of_kind(kind, object), "tests").await;
    }

    /// Makes an object what `object` says and nothing else, whatever it was before.
    pub async fn replace(&self, kind: Kind, object: &Value) {
        replace_in(&self.api_for(kind, object), &of_kind(kind, object), "tests").await;
    }

    /// The same with each of the objects of a text, as it is in YAML.
    pub async fn replace_all(&self, text: &str) {
        for object in documents(text) {
            let (resource, namespace) = resource_of(&object);
            replace_in(&self.api_of(&resource, &namespace), &object, "kubectl").await;
        }
    }

    fn api_for(&self, kind: Kind, object: &Value) -> Api<DynamicObject> {
        self.api(kind, object["metadata"]["namespace"].as_str().unwrap_or(""))
    }

    /// Writes an object's status, as the kubelet or a controller would.
    pub async fn patch_status(&self, kind: Kind, namespace: &str, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let api = self.api(kind, namespace);
        let done = api.patch_status(name, &PatchParams::default(), &patch).await;
        done.unwrap_or_else(|error| panic!("cannot write the status of {} {name}: {error}", kind.2));
    }

    /// Changes parts of an object.
    pub async fn patch(&self, kind: Kind, namespace: &str, name: &str, patch: Value) {
        let done = self.api(kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.unwrap_or_else(|error| panic!("cannot change {} {name}: {error}", kind.2));
    }

    /// An object, if it is there.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let found = self.api(kind, namespace).get_opt(name).await;
        found
            .unwrap_or_else(|error| panic!("cannot read {} {name}: {error}", kind.2))
            .map(|object| serde_json::to_value(object).unwrap())
    }

    /// The objects of a kind with this label, `KEY=VALUE`, or all of them with "".
    pub async fn list(&self, kind: Kind, namespace: &str, label: &str) -> Vec<Value> {
        self.find(kind, namespace, &ListParams::default().labels(label)).await
    }

    /// The events with this reason.
    pub async fn events(&self, reason: &str) -> Vec<Value> {
        self.find(EVENT, "", &ListParams::default().fields(&format!("reason={reason}"))).await
    }

    async fn find(&self, kind: Kind, namespace: &str, which: &ListParams) -> Vec<Value> {
        let found = self.api(kind, namespace).list(which).await;
        let found = found.unwrap_or_else(|error| panic!("cannot list {}: {error}", kind.3));
        found.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    /// Removes an object, if it is there.
    pub async fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        // No kubelet would end a pod that may take its time.
        match self.api(kind, namespace).delete(name, &DeleteParams::default().grace_period(0)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("cannot delete {} {name}: {error}", kind.2),
        }
    }

    /// Removes the objects of these kinds, in `default` where they are in a namespace, but for those whose
    /// names stay. One kind after the other: for each that is new to it the API server computes for seconds.
    pub async fn keep_only(&self, kinds: &[(Kind, &[&str])]) {
        for &(kind, stay) in kinds {
            let namespace = if OF_NO_NAMESPACE.contains(&kind.2) { "" } else { "default" };
            for each in self.list(kind, namespace, "").await {
                let name = each["metadata"]["name"].as_str().unwrap();
                if !stay.contains(&name) {
                    self.delete(kind, namespace, name).await;
                }
            }
        }
    }

    /// Removes the objects of a kind with this label at once.
    pub async fn delete_all(&self, kind: Kind, namespace: &str, label: &str) {
        let parameters = DeleteParams::default().grace_period(0);
        let done = self
            .api(kind, namespace)
            .delete_collection(&parameters, &ListParams::default().labels(label))
            .await;
        done.unwrap_or_else(|error| panic!("cannot delete {}: {error}", kind.3));
    }

    /// Applies the objects of a text, as it is in YAML, without a process for it.
    pub async fn apply_all(&self, text: &str) {
        for object in documents(text) {
            let (resource, namespace) = resource_of(&object);
            apply_to(&self.api_of(&resource, &namespace), &object, "kubectl").await;
        }
    }

    /// Applies the objects of a file or of a folder by kubectl.
    pub async fn apply_file(&self, path: &Path) {
        let mut kubectl =
            Command::from(self.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]));
        let done = kubectl.output().await.unwrap();
        assert!(done.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&done.stderr));
    }

    /// A client for typed objects.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A command of kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).env("GOGC", "off");
        command
    }

    /// `kubectl ... -f -` with this text; panics with what it says to a mistake.
    pub async fn pipe(&self, arguments: &[&str], text: &str) -> String {
        let mut child = Command::from(self.kubectl(arguments))
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
        let done = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "kubectl {}: {said}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
        said
    }
}

/// Kinds whose objects are in no namespace.
const OF_NO_NAMESPACE: [&str; 5] =
    ["Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "GatewayClass"];

/// The objects of a text in YAML.
fn documents(text: &str) -> Vec<Value> {
    let says = |each: &&str| each.lines().any(|line| !line.is_empty() && !line.starts_with(['#', '-']));
    let documents = text.split("\n---\n").filter(says);
    documents.map(|each| serde_saphyr::from_str(each).expect("YAML")).collect()
}

/// What the API server calls the kind of an object, and its namespace.
fn resource_of(object: &Value) -> (ApiResource, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, version) = (text(&object["kind"]), text(&object["apiVersion"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    (resource, if OF_NO_NAMESPACE.contains(&&*kind) { String::new() } else { namespace.to_owned() })
}

/// Makes an object, or makes it what `object` says; the fields belong to `manager` from now on.
async fn apply_to(api: &Api<DynamicObject>, object: &Value, manager: &str) {
    let name = object["metadata"]["name"].as_str().unwrap();
    api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
        .await
        .unwrap_or_else(|error| panic!("cannot apply {} {name}: {error}", object["kind"]));
}

/// The object with the names of its kind.
fn of_kind(Kind(group, version, of, _): Kind, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] =
        if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
    object["kind"] = of.into();
    object
}

/// Makes an object what `object` says and nothing else. The fields of one that was not there belong to
/// `manager`.
async fn replace_in(api: &Api<DynamicObject>, object: &Value, manager: &str) {
    let name = object["metadata"]["name"].as_str().unwrap();
    until(&format!("{} {name} is replaced", object["kind"]), async || {
        let Some(now) = api.get_opt(name).await.expect("the object, or that there is none") else {
            apply_to(api, object, manager).await;
            return Some(());
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = now.metadata.resource_version.into();
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(_) => Some(()),
            // Somebody wrote its status between the two.
            Err(kube::Error::Api(status)) if status.code == 409 => None,
            Err(error) => panic!("cannot replace {name}: {error}"),
        }
    })
    .await;
}

//! What a kubelet makes of a container before it starts it: environment and arguments filled in, volumes as
//! folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::api::{CONFIG_MAP, Cluster, SECRET};
use crate::ground::Ground;

/// A pod, as its containers know it.
pub struct Identity<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its address; empty where none of its containers asks.
    pub address: &'a str,
}

impl Identity<'_> {
    fn field(&self, path: &str) -> &str {
        match path {
            "metadata.namespace" => self.namespace,
            "metadata.name" => self.name,
            "status.podIP" => self.address,
            _ => "",
        }
    }

    /// The folder of what its volumes hold.
    fn folder(&self, ground: &Ground) -> PathBuf {
        ground.folder.join("volumes").join(self.namespace).join(self.name)
    }
}

/// A command that runs `program` as the container: its environment, its arguments, its volumes in a mount
/// namespace of its own. `pod` is the pod's spec.
pub async fn command(
    ground: &Ground,
    identity: &Identity<'_>,
    pod: &Value,
    container: &Value,
    program: &Path,
) -> Command {
    let (environment, arguments) = environment_and_arguments(container, identity);
    // Folders of the machine stay as they are: what has no place in the sandbox's root gets one in memory.
    let mut script = String::from("set -e\nmount --make-rprivate /\nmount -t tmpfs tmpfs /run\n");
    for (folder, path) in volumes(ground, identity, pod, container).await {
        script += &format!("mkdir -p {path}\nmount --bind {} {path}\n", folder.display());
    }
    script += "exec \"$@\"";
    let mut command = Command::new("unshare");
    let name = container["name"].as_str().unwrap();
    command.args(["--mount", "sh", "-c", &script, name]).arg(program).args(arguments).envs(environment);
    command
}

/// Writes a Secret's entries as the files that a volume would have.
pub async fn secret_files(cluster: &Cluster, folder: &Path, namespace: &str, name: &str) -> PathBuf {
    let secret =
        cluster.get(SECRET, namespace, name).await.unwrap_or_else(|| panic!("there is no Secret {name}"));
    let folder = folder.join(format!("secret-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    for (file, value) in secret["data"].as_object().unwrap() {
        let bytes: k8s_openapi::ByteString = serde_json::from_value(value.clone()).unwrap();
        std::fs::write(folder.join(file), bytes.0).unwrap();
    }
    folder
}

/// The volumes of a container as folders, with the path of each: Secrets, ConfigMaps, and tokens of the
/// ServiceAccount.
async fn volumes(
    ground: &Ground,
    identity: &Identity<'_>,
    pod: &Value,
    container: &Value,
) -> Vec<(PathBuf, String)> {
    let empty = Vec::new();
    let mut found = Vec::new();
    for mount in container["volumeMounts"].as_array().unwrap_or(&empty) {
        let volume = pod["volumes"]
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .find(|each| each["name"] == mount["name"])
            .unwrap();
        let folder = if let Some(name) = volume["secret"]["secretName"].as_str() {
            secret_files(&ground.cluster, &identity.folder(ground), identity.namespace, name).await
        } else if let Some(name) = volume["configMap"]["name"].as_str() {
            config_files(ground, identity, volume, name).await
        } else if let Some(token) = volume["projected"]["sources"][0].get("serviceAccountToken") {
            token_file(ground, identity, token, pod["serviceAccountName"].as_str().unwrap()).await
        } else {
            continue;
        };
        found.push((folder, mount["mountPath"].as_str().unwrap().to_owned()));
    }
    found
}

/// Writes the entries of a ConfigMap that a volume names, or all of them.
async fn config_files(ground: &Ground, identity: &Identity<'_>, volume: &Value, name: &str) -> PathBuf {
    let folder = identity.folder(ground).join(volume["name"].as_str().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    let map = ground
        .cluster
        .get(CONFIG_MAP, identity.namespace, name)
        .await
        .unwrap_or_else(|| panic!("there is no ConfigMap {name}"));
    let items = volume["configMap"]["items"].as_array();
    let wanted = |file: &str| items.is_none_or(|items| items.iter().any(|item| item["key"] == file));
    for (file, text) in map["data"].as_object().into_iter().flatten().filter(|(file, _)| wanted(file)) {
        std::fs::write(folder.join(file), text.as_str().unwrap()).unwrap();
    }
    for (file, bytes) in map["binaryData"].as_object().into_iter().flatten().filter(|(file, _)| wanted(file))
    {
        let bytes: k8s_openapi::ByteString = serde_json::from_value(bytes.clone()).unwrap();
        std::fs::write(folder.join(file), bytes.0).unwrap();
    }
    folder
}

/// Writes a token as the kubelet would get it: it belongs to the Pod, without which Envoy Gateway does not
/// know whose it is.
async fn token_file(ground: &Ground, identity: &Identity<'_>, token: &Value, account: &str) -> PathBuf {
    let folder = identity.folder(ground).join("token");
    std::fs::create_dir_all(&folder).unwrap();
    let request = json!({"metadata": {}, "spec": {
        "audiences": [token["audience"]],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": identity.name},
    }});
    let accounts: Api<ServiceAccount> = Api::namespaced(ground.cluster.client(), identity.namespace);
    let request: TokenRequest = serde_json::from_value(request).unwrap();
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let made = made.unwrap_or_else(|error| panic!("a token of {account}: {error}"));
    std::fs::write(folder.join(token["path"].as_str().unwrap()), made.status.unwrap().token).unwrap();
    folder
}

/// Environment and arguments of a container, as the kubelet would fill them in.
fn environment_and_arguments(
    container: &Value,
    identity: &Identity<'_>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let empty = Vec::new();
    let value = |each: &Value| match each["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        Some(path) => identity.field(path).to_owned(),
        None => each["value"].as_str().unwrap_or("").to_owned(),
    };
    let environment: BTreeMap<String, String> = container["env"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|each| (each["name"].as_str().unwrap().to_owned(), value(each)))
        .collect();
    let arguments = container["args"].as_array().unwrap_or(&empty).iter().map(|each| {
        let text = each.as_str().unwrap().to_owned();
        environment.iter().fold(text, |text, (name, value)| text.replace(&format!("$({name})"), value))
    });
    let arguments = arguments.collect();
    (environment, arguments)
}

//! Runs the conformance suite of the Gateway API Inference Extension against Warmpath: a real API server and
//! controller manager, Envoy Gateway and the Envoys that it deploys, Warmpath's controller with the module,
//! and the suite's own servers as pods.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use warmpath_tests::repository;

use crate::controller::{Controller, prepare};
use crate::gateway::{EnvoyGateway, configuration};
use crate::ground::{Ground, folder};
use crate::kubelet::Kubelet;
use crate::pools::envoy_gateway_values;
use crate::process::Process;
use crate::services;

/// Runs one test of the suite, or all, and writes the suite's report. A line for each test, and the count.
pub async fn run(tools: &Path, module: &[u8], report: &Path, test: Option<&str>) -> i32 {
    let ground = Ground::start(tools, folder()).await;
    let _manager = controller_manager(&ground);
    let cluster = &ground.cluster;
    cluster.apply_file(&tools.join("crds-inference/v1")).await;
    prepare(&ground).await;
    cluster.apply_file(&repository().join("tests/kubernetes/inputs/conformance.yaml")).await;
    let _controller = Controller::start(&ground, module, "replica-a", &["--conformance"]).await;
    let gateway = EnvoyGateway::start(&ground, &gateway_configuration()).await;
    let nodes = async {
        tokio::join!(Kubelet::new(&ground).await.run(), services::serve(cluster.client(), |_| true));
    };
    let code = tokio::select! {
        code = suite(&ground, report, test) => code,
        () = nodes => unreachable!("a node runs for ever"),
    };
    // Its end would be the orderly end of every program, and takes seconds.
    std::mem::forget((ground, gateway, _manager, _controller));
    code
}

/// The suite wants a pod in the namespace of its Gateways, so Envoys run there. Only the stable API is
/// defined.
fn gateway_configuration() -> Value {
    let mut more = envoy_gateway_values();
    let backends = more["extensionManager"]["backendResources"].as_array_mut().unwrap();
    backends.retain(|each| each["version"] == "v1");
    more["provider"]["kubernetes"]["deploy"]["type"] = "GatewayNamespace".into();
    configuration(more)
}

/// Deployments, ReplicaSets, EndpointSlices, and the end of namespaces.
fn controller_manager(ground: &Ground) -> Process {
    let mut command = Command::new(ground.tools.join("kube-controller-manager"));
    let controllers = "deployment-controller,replicaset-controller,endpointslice-controller,namespace-controller,\
                       garbage-collector-controller,serviceaccount-controller";
    command
        .arg("--kubeconfig")
        .arg(ground.cluster.kubeconfig())
        .args(["--leader-elect=false", "--secure-port=0", "--controllers", controllers])
        .arg("--service-account-private-key-file")
        .arg(ground.folder.join("service-accounts.key"));
    Process::start("kube-controller-manager", &ground.logs(), &mut command)
}

async fn suite(ground: &Ground, report: &Path, test: Option<&str>) -> i32 {
    let log: PathBuf = ground.logs().join("conformance.log");
    println!("the suite says in {}", log.display());
    let mut command = tokio::process::Command::new(ground.tools.join("conformance"));
    command
        .args(["-test.v", "-test.timeout=40m", "-test.run=^TestConformance$", "-gateway-class=warmpath"])
        .args(["-organization=warmpath", "-project=warmpath", "-contact=see the repository"])
        .arg(concat!("-version=v", env!("CARGO_PKG_VERSION")))
        .arg("-url=https://warmpath.dev")
        .arg(format!("-report-output={}", report.display()))
        .args(test.map(|test| format!("-run-test={test}")))
        .env("KUBECONFIG", ground.cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log.with_extension("err")).unwrap());
    let mut child = command.spawn().expect("the suite");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let (mut passed, mut failed) = (0, 0);
    while let Ok(Some(line)) = lines.next_line().await {
        match outcome(&line) {
            Some(("PASS", name)) => {
                passed += 1;
                println!("PASS  {name}");
            }
            // A test that is skipped is one that was not passed.
            Some((other, name)) => {
                failed += 1;
                println!("{other}  {name}");
            }
            None => {}
        }
        said += &line;
        said.push('\n');
        std::fs::write(&log, &said).unwrap();
    }
    let ended = child.wait().await.unwrap();
    if !ended.success() && failed == 0 {
        failed = 1;
        println!("the suite ended with {ended}: see {}", log.display());
    }
    println!("{passed} passed, {failed} failed");
    i32::from(failed > 0 || passed == 0)
}

/// The outcome and the name of a test of the suite, where the line says it; those of its parts are indented
/// further.
fn outcome(line: &str) -> Option<(&str, &str)> {
    let (outcome, rest) = line.strip_prefix("    --- ")?.split_once(": TestConformance/")?;
    Some((outcome, rest))
}

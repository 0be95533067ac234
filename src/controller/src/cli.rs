//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What Kubernetes says of inference pools becomes what Envoy Gateway is told: a controller for
/// InferencePools, and Envoy Gateway's extension server.
#[derive(Debug, Parser)]
#[command(name = "warmpath-controller", version)]
pub struct Cli {
    /// Write the log as JSON
    #[arg(long, global = true)]
    pub log_json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster and answer Envoy Gateway
    Serve(Options),
    /// Make the certificates of controller and Envoy Gateway, where they are not there
    Certgen(CertgenOptions),
}

/// Options of `certgen`.
#[derive(Debug, Args)]
pub struct CertgenOptions {
    /// The namespace of the controller
    #[arg(long, value_name = "NAME", default_value = "warmpath-system")]
    pub namespace: String,

    /// The namespace of Envoy Gateway
    #[arg(long, value_name = "NAME", default_value = "envoy-gateway-system")]
    pub envoy_gateway_namespace: String,

    /// The controller's Service
    #[arg(long, value_name = "NAME", default_value = "warmpath-controller")]
    pub service: String,

    /// The cluster's domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub domain: String,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct Options {
    /// The module that is put into Envoy's listeners, a .wasm file
    #[arg(long, value_name = "FILE")]
    pub module: PathBuf,

    /// The module's plugin configuration, a JSON file; without it, one that finds pods by Envoy's admin page
    #[arg(long, value_name = "FILE")]
    pub plugin_config: Option<PathBuf>,

    /// Put the module's role that reads answers into the clusters of pools too
    #[arg(long)]
    pub answer_filter: bool,

    /// Do as the conformance tests of the Gateway API Inference Extension expect: obey the request header
    /// `test-epp-endpoint-selection`, name in each answer the pod that gave it, and refuse a pool whose
    /// endpoint picker is not there. Needs the right to list and watch Services. Not for production: clients
    /// choose pods
    #[arg(long, conflicts_with = "plugin_config")]
    pub conformance: bool,

    /// Where Envoy Gateway asks the hooks
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9443")]
    pub listen: SocketAddr,

    /// The certificate that the hooks are served with, a PEM file; without it they are served without TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Only clients with a certificate of this authority may ask the hooks, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,

    /// Where metrics and probes are served: /metrics, /livez, /readyz
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    pub pages: SocketAddr,

    /// Between two knocks at the ports of ready pods, whose refusals are told at the RoutedPool; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub knock_seconds: u64,

    /// The namespace of the lease that says which replica writes
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "warmpath-system")]
    pub namespace: String,

    /// The name of this replica; each has its own
    #[arg(long, value_name = "NAME", env = "HOSTNAME")]
    pub replica: String,

    /// The controllerName of Envoy Gateway's GatewayClasses
    #[arg(long, value_name = "NAME", default_value = "gateway.envoyproxy.io/gatewayclass-controller")]
    pub gateway_controller: String,
}

//! Warmpath's controller: what Kubernetes says of inference pools becomes what Envoy Gateway is told.
//!
//! The path of a fact: [`plan`] says what follows from the objects; [`hooks`] is the gRPC server that Envoy
//! Gateway asks about each resource of a translation; [`xds`] edits that resource's bytes.

pub mod certgen;
pub mod cli;
pub mod hooks;
pub mod knock;
pub mod kube;
pub mod plan;
pub mod run;
pub mod serve;
pub mod telemetry;
pub mod tls;
pub mod xds;

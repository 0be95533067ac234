//! A simulated vLLM pod, a fleet of them on virtual time, traffic and reports.
//!
//! [`engine`] is the model of one pod, without clock or I/O: what a fleet on virtual time steps through.
//! [`pod`] puts that engine behind HTTP in real time, in the form a router sees of vLLM. [`traffic`] sends
//! the reference's two benchmarks, workloads and traces over real HTTP, and compares such runs. [`instant`]
//! and [`load`] measure the cost of gateways: a backend that answers at once, and a closed loop of requests.
//! [`workload`] says what is asked of a fleet, [`fleet`] runs it with a routing policy (ours, or one of
//! [`baselines`]), and [`report`] shows what came of it.

pub mod baselines;
pub mod cli;
pub mod engine;
pub mod fleet;
pub mod instant;
pub mod load;
pub mod pod;
pub mod policy;
pub mod report;
pub mod traffic;
mod wire;
pub mod workload;

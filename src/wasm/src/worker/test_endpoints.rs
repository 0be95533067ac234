//! The pods that the conformance tests of the Gateway API Inference Extension choose: they name them in a
//! request header, as an endpoint picker would. Only where `test_endpoint_header` is set, since whoever sends
//! that header chooses pods.

use warmpath::shared::clusters::ClusterSet;
use warmpath::shared::pod_table::{Pod, PodTable};

use super::Worker;
use crate::answer_hint::AnswerHint;
use crate::host;

/// `ip` or `ip:port`, separated by commas; without a port, each of that address.
const HEADER: &str = "test-epp-endpoint-selection";

impl Worker {
    /// Sends the request to pods that the header names, if it names any of the request's own; nothing is
    /// booked. Whether it did.
    pub fn route_by_test_header(&mut self) -> bool {
        let Some(header) = host::request_header(HEADER) else { return false };
        let now = host::now();
        self.refresh_now_and_then(now);
        let Some(among) = self.candidates(now) else { return false };
        let mut pods = named(&header, self.router.table(), among);
        if pods.is_empty() {
            return false;
        }
        let first = host::random() % pods.len() as u64;
        pods.rotate_left(first as usize);
        let addresses: Vec<&[u8]> = pods.iter().map(|pod| pod.address.as_bytes()).collect();
        host::set_request_header(host::DESTINATION, Some(&addresses.join(&b","[..])));
        // It is not known how many of them Envoy may try, nor what is asked.
        AnswerHint::unrouted(false).give();
        true
    }
}

/// The pods that the header names, among those of these clusters.
fn named<'t>(header: &[u8], table: &'t PodTable, among: ClusterSet) -> Vec<&'t Pod> {
    let named: Vec<&[u8]> = header.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).collect();
    let is_named = |pod: &Pod| {
        let address = pod.address.as_bytes();
        let host = address.rsplitn(2, |&byte| byte == b':').nth(1).unwrap_or(address);
        named.iter().any(|&name| name == address || name == host)
    };
    let candidates = table.addresses().map(|(_, pod)| pod).filter(|pod| pod.candidate_of.meets(among));
    candidates.filter(|pod| is_named(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_by_address_with_or_without_a_port() {
        let pod = |id: u32, address: &str, of: usize| Pod {
            id,
            address: address.into(),
            candidate_of: ClusterSet::nth(of),
            ..Pod::default()
        };
        let pods = vec![
            pod(1, "10.0.0.1:8000", 0),
            pod(2, "10.0.0.1:8001", 0),
            pod(3, "[fd00::1]:8000", 0),
            pod(4, "10.0.0.2:8000", 1),
        ];
        let table = PodTable { pods, ..PodTable::default() };
        let named = |header: &str| -> Vec<u32> {
            named(header.as_bytes(), &table, ClusterSet::nth(0)).iter().map(|pod| pod.id).collect()
        };
        assert_eq!(named("10.0.0.1"), [1, 2]);
        assert_eq!(named("10.0.0.1:8001, [fd00::1]:8000"), [2, 3]);
        // Another cluster's, and nobody's.
        assert_eq!(named("10.0.0.2,10.0.0.1:9"), [0u32; 0]);
        assert_eq!(named(""), [0u32; 0]);
    }
}

//! A pool's cluster: its pods, by locality.
//!
//! Envoy Gateway makes one locality for each backend of a rule, named by its region, and leaves that of a
//! pool empty.

use std::net::IpAddr;

use serde_json::json;

use super::wire::{Message, WireError};
use super::{FILTER, build};

// envoy.config.endpoint.v3.ClusterLoadAssignment
const CLUSTER_NAME: u32 = 1;
const LOCALITIES: u32 = 2;
// envoy.config.endpoint.v3.LocalityLbEndpoints
const LOCALITY: u32 = 1;
const LB_ENDPOINTS: u32 = 2;
const WEIGHT: u32 = 3;
const METADATA: u32 = 9;
// envoy.config.core.v3.HealthStatus
const HEALTHY: u64 = 1;
const DRAINING: u64 = 3;

/// One place to send to, as Envoy is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pod's address.
    pub address: IpAddr,
    /// The port that the engine listens on.
    pub port: u16,
    /// Whether new requests may go there. `false` is DRAINING: running streams end whole, and Envoy leaves it
    /// out of the sum by which it would panic; UNHEALTHY would count.
    pub ready: bool,
}

/// What fills the locality of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill<'a> {
    /// The places, in order.
    pub places: &'a [Place],
    /// Stands in the locality's metadata. A cluster that changed waits for its next endpoints: a new revision
    /// is one.
    pub revision: u64,
}

/// The name of the cluster that the endpoints are for.
///
/// # Errors
/// Where the bytes are no load assignment.
pub fn cluster_name(assignment: &[u8]) -> Result<String, WireError> {
    Ok(Message::parse(assignment)?.text(CLUSTER_NAME)?.to_owned())
}

/// The regions of the localities and whether each has endpoints, in order.
///
/// # Errors
/// Where the bytes are no load assignment.
pub fn regions(assignment: &[u8]) -> Result<Vec<(String, bool)>, WireError> {
    let assignment = Message::parse(assignment)?;
    let each = assignment.all(LOCALITIES).map(|locality| {
        let locality = Message::parse(locality?)?;
        Ok((region(&locality)?, locality.has(LB_ENDPOINTS)))
    });
    each.collect()
}

/// The assignment with the localities filled for which `fill` has something, by region. An assignment without
/// localities, as Envoy Gateway makes it for zone-aware routing, gets one, whose region is the cluster's
/// name.
///
/// # Errors
/// Where the bytes are no load assignment.
pub fn fill<'f>(assignment: &[u8], fill: impl Fn(&str) -> Option<Fill<'f>>) -> Result<Vec<u8>, WireError> {
    let mut assignment = Message::parse(assignment)?;
    if !assignment.has(LOCALITIES) {
        let name = assignment.text(CLUSTER_NAME)?.to_owned();
        if let Some(fill) = fill(&name) {
            let mut region = Message::new();
            region.set_bytes(1, name.into_bytes());
            let mut locality = Message::new();
            locality.set_bytes(LOCALITY, region.encode()).set_bytes(WEIGHT, build::wrapped(1));
            fill_one(&mut locality, &fill)?;
            assignment.push(LOCALITIES, locality.encode());
        }
        return Ok(assignment.encode());
    }
    assignment.edit_each(LOCALITIES, |bytes| {
        let mut locality = Message::parse(bytes)?;
        if let Some(fill) = fill(&region(&locality)?) {
            fill_one(&mut locality, &fill)?;
        }
        Ok(locality.encode())
    })?;
    Ok(assignment.encode())
}

fn region(locality: &Message<'_>) -> Result<String, WireError> {
    let Some(locality) = locality.message(LOCALITY)? else { return Ok(String::new()) };
    Ok(Message::parse(&locality)?.text(1)?.to_owned())
}

fn fill_one(locality: &mut Message<'_>, fill: &Fill<'_>) -> Result<(), WireError> {
    locality.set_all(LB_ENDPOINTS, fill.places.iter().map(lb_endpoint));
    let ours = json!({"revision": fill.revision});
    let ours = ours.as_object().map(build::structure).unwrap_or_default();
    locality.edit(METADATA, |all| all.set_map_value(1, FILTER, ours).map(|_| ()))?;
    Ok(())
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
fn lb_endpoint(place: &Place) -> Vec<u8> {
    let mut socket = Message::new();
    socket.set_bytes(2, place.address.to_string().into_bytes()).set_varint(3, u64::from(place.port));
    let mut address = Message::new();
    address.set_bytes(1, socket.encode());
    let mut endpoint = Message::new();
    endpoint.set_bytes(1, address.encode());
    let mut lb = Message::new();
    lb.set_bytes(1, endpoint.encode());
    lb.set_varint(2, if place.ready { HEALTHY } else { DRAINING });
    lb.set_bytes(4, build::wrapped(1)); // load_balancing_weight, as Envoy Gateway gives its own
    lb.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(regions: &[(&str, bool)]) -> Vec<u8> {
        let mut assignment = Message::new();
        assignment.set_bytes(CLUSTER_NAME, &b"httproute/default/r/rule/0"[..]);
        for (name, full) in regions {
            let mut region = Message::new();
            region.set_bytes(1, name.as_bytes().to_vec());
            let mut locality = Message::new();
            locality.set_bytes(LOCALITY, region.encode()).set_bytes(WEIGHT, build::wrapped(30));
            if *full {
                locality.push(LB_ENDPOINTS, vec![0x10, 0x01]);
            }
            locality.set_varint(777, 3);
            assignment.push(LOCALITIES, locality.encode());
        }
        assignment.encode()
    }

    fn place(last: u8, ready: bool) -> Place {
        Place { address: IpAddr::from([10, 244, 0, last]), port: 8000, ready }
    }

    #[test]
    fn only_the_locality_of_the_pool_is_filled() {
        let before = assignment(&[("r/backend/0", false), ("r/backend/1", true)]);
        let places = [place(11, true), place(12, false)];
        let after = fill(&before, |region| {
            (region == "r/backend/0").then_some(Fill { places: &places, revision: 4 })
        })
        .unwrap();
        assert_eq!(
            regions(&after).unwrap(),
            [("r/backend/0".to_owned(), true), ("r/backend/1".to_owned(), true)]
        );
        let parsed = Message::parse(&after).unwrap();
        let localities: Vec<_> =
            parsed.all(LOCALITIES).map(|l| Message::parse(l.unwrap()).unwrap()).collect();
        let health: Vec<_> = localities[0]
            .all(LB_ENDPOINTS)
            .map(|e| Message::parse(e.unwrap()).unwrap().varint(2).unwrap())
            .collect();
        assert_eq!(health, [HEALTHY, DRAINING]);
        assert_eq!(localities[0].varint(777), Ok(3));
        assert_eq!(localities[0].message(WEIGHT).unwrap().unwrap().as_ref(), build::wrapped(30));
        let untouched = Message::parse(&before).unwrap();
        assert_eq!(untouched.all(LOCALITIES).nth(1).unwrap().unwrap(), localities[1].encode());
    }

    #[test]
    fn filling_twice_is_filling_once() {
        let places = [place(11, true)];
        let fresh = assignment(&[("r", false)]);
        let once = fill(&fresh, |_| Some(Fill { places: &places, revision: 4 })).unwrap();
        assert_eq!(fill(&once, |_| Some(Fill { places: &places, revision: 4 })).unwrap(), once);
        let none = fill(&once, |_| Some(Fill { places: &[], revision: 4 })).unwrap();
        assert_eq!(regions(&none).unwrap(), [("r".to_owned(), false)]);
    }

    #[test]
    fn an_assignment_without_localities_gets_one() {
        let places = [Place { address: "fd00::11".parse().unwrap(), port: 1, ready: true }];
        let name = "httproute/default/r/rule/0";
        let after = fill(&assignment(&[]), |region| {
            (region == name).then_some(Fill { places: &places, revision: 1 })
        })
        .unwrap();
        assert_eq!(regions(&after).unwrap(), [(name.to_owned(), true)]);
        assert!(after.windows(8).any(|w| w == b"fd00::11"));
        assert_eq!(fill(&assignment(&[]), |_| None).unwrap(), assignment(&[]));
    }
}

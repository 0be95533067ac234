//! A route whose backend is a pool: the filter enabled, what the module must know in its metadata, retries,
//! limits.

use serde_json::{Map, Value as Json};

use super::wire::{Message, WireError};
use super::{FILTER, build};

// envoy.config.route.v3.Route
const ACTION: u32 = 2;
const METADATA: u32 = 4;
const TYPED_PER_FILTER_CONFIG: u32 = 13;
const RESPONSE_HEADERS_TO_ADD: u32 = 10;
const NAME: u32 = 14;
const REQUEST_BODY_BUFFER_LIMIT: u32 = 20;
// envoy.config.route.v3.RouteAction
const WEIGHTED_CLUSTERS: u32 = 3;
const TIMEOUT: u32 = 8;
const RETRY_POLICY: u32 = 9;
// envoy.config.core.v3.Metadata
const FILTER_METADATA: u32 = 1;

/// What the hook must know of a route to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, `httproute/NAMESPACE/NAME/rule/I/match/J/...`.
    pub name: String,
    /// Whether it sends anywhere; a redirect does not.
    pub sends: bool,
    /// Whether it has a cluster for each backend, in a weighted list.
    pub weighted: bool,
}

/// Name and shape of a route.
///
/// # Errors
/// Where the bytes are no route.
pub fn identity(route: &[u8]) -> Result<Identity, WireError> {
    let route = Message::parse(route)?;
    let action = route.message(ACTION)?;
    let weighted = match &action {
        Some(action) => Message::parse(action)?.has(WEIGHTED_CLUSTERS),
        None => false,
    };
    Ok(Identity { name: route.text(NAME)?.to_owned(), sends: action.is_some(), weighted })
}

/// What a route to a pool gets.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// What the module reads as property `xds.route_metadata` under our key.
    pub metadata: &'a Map<String, Json>,
    /// The largest body of a request, bytes.
    pub max_body: u64,
    /// Clusters of pools with their weights. A weighted list of Envoy Gateway's leaves them out, since to its
    /// knowledge they have no endpoints; the pools' share would be lost.
    pub clusters: &'a [(String, u32)],
    /// Whether answers name the pod that served them, as the conformance tests ask.
    pub name_pods: bool,
}

/// The route with the filter enabled. A retry policy, a timeout or a limit that the user set stays.
///
/// # Errors
/// Where the bytes are no route.
pub fn attach(route: &[u8], attachment: Attachment<'_>) -> Result<Vec<u8>, WireError> {
    let Attachment { metadata, max_body, clusters, name_pods } = attachment;
    let mut route = Message::parse(route)?;
    if !route.has(ACTION) {
        return Ok(route.encode());
    }
    route.edit(ACTION, |action| {
        if !action.has(RETRY_POLICY) {
            action.set_bytes(RETRY_POLICY, retry_policy());
        }
        // Envoy's own default is 15 s, which a long answer outlives. 0 is none.
        if !action.has(TIMEOUT) {
            action.set_bytes(TIMEOUT, build::duration(0));
        }
        if action.has(WEIGHTED_CLUSTERS) {
            action.edit(WEIGHTED_CLUSTERS, |list| add_clusters(list, clusters))?;
        }
        Ok(())
    })?;
    if !route.has(REQUEST_BODY_BUFFER_LIMIT) {
        route.set_bytes(REQUEST_BODY_BUFFER_LIMIT, build::wrapped(max_body));
    }
    if name_pods {
        let header = served_by();
        if !route.all(RESPONSE_HEADERS_TO_ADD).any(|there| there.is_ok_and(|there| there == header)) {
            route.push(RESPONSE_HEADERS_TO_ADD, header);
        }
    }
    // The configuration is an empty Any: the filter is enabled with what stands in the listener.
    let mut enabled = Message::new();
    enabled.set_bytes(1, Vec::new());
    let enabled = build::any("envoy.config.route.v3.FilterConfig", &enabled.encode());
    route.set_map_value(TYPED_PER_FILTER_CONFIG, FILTER, enabled)?;
    route.edit(METADATA, |all| {
        all.set_map_value(FILTER_METADATA, FILTER, build::structure(metadata)).map(|_| ())
    })?;
    Ok(route.encode())
}

/// `envoy.config.core.v3.HeaderValueOption`: the address of the pod that gave the answer.
fn served_by() -> Vec<u8> {
    let mut header = Message::new();
    header.set_bytes(1, &b"x-conformance-test-served-endpoint"[..]);
    header.set_bytes(2, &b"%UPSTREAM_REMOTE_ADDRESS%"[..]);
    let mut option = Message::new();
    option.set_bytes(1, header.encode());
    option.encode()
}

/// Adds the clusters that a weighted list lacks.
fn add_clusters(list: &mut Message<'_>, clusters: &[(String, u32)]) -> Result<(), WireError> {
    let mut there = Vec::new();
    for cluster in list.all(1) {
        there.push(Message::parse(cluster?)?.text(1)?.to_owned());
    }
    for (name, weight) in clusters.iter().filter(|(name, _)| !there.contains(name)) {
        let mut cluster = Message::new();
        cluster.set_bytes(1, name.clone().into_bytes()).set_bytes(2, build::wrapped(u64::from(*weight)));
        list.push(1, cluster.encode());
    }
    Ok(())
}

/// Attempt 1 goes to the pod that was chosen; what fails before its first byte goes to the next in the list.
fn retry_policy() -> Vec<u8> {
    let mut back_off = Message::new();
    back_off.set_bytes(1, build::duration(25)).set_bytes(2, build::duration(100));
    let mut policy = Message::new();
    // The answer filter sets the header when another pod may serve what this one refuses.
    let mut header = Message::new();
    header.set_bytes(1, &b"x-warmpath-ask-another"[..]).set_varint(7, 1); // present_match
    policy
        .set_bytes(1, &b"connect-failure,refused-stream,reset,retriable-status-codes,retriable-headers"[..]);
    policy.set_bytes(2, build::wrapped(2));
    // While the module knows no pods, Envoy chooses, and shall not choose a dead one three times.
    let previous_hosts =
        build::any("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]);
    let mut predicate = Message::new();
    predicate.set_bytes(1, &b"envoy.retry_host_predicates.previous_hosts"[..]).set_bytes(3, previous_hosts);
    policy.push(5, predicate.encode()).set_varint(6, 5);
    policy.set_bytes(7, vec![0xf7, 0x03]); // retriable_status_codes, packed: 503
    policy.set_bytes(8, back_off.encode());
    policy.push(9, header.encode());
    policy.encode()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CLUSTER: u32 = 1;

    fn attached(route: &[u8], max_body: u64, clusters: &[(String, u32)]) -> Result<Vec<u8>, WireError> {
        attach(route, Attachment { metadata: &metadata(), max_body, clusters, name_pods: false })
    }

    fn metadata() -> Map<String, Json> {
        json!({"strategy": "PREFIX_CACHE"}).as_object().unwrap().clone()
    }

    /// A route to one cluster, with fields that this program does not know.
    fn route(edit: impl FnOnce(&mut Message<'static>)) -> Vec<u8> {
        let mut action = Message::new();
        action.set_bytes(CLUSTER, &b"httproute/default/pooled/rule/0"[..]).set_bytes(4242, &b"kept"[..]);
        edit(&mut action);
        let mut route = Message::new();
        route.set_bytes(14, &b"name"[..]).set_bytes(ACTION, action.encode()).set_varint(5151, 7);
        route.encode()
    }

    #[test]
    fn a_route_is_attached_and_unknown_fields_stay() {
        let bytes = attached(&route(|_| ()), 1 << 25, &[]).unwrap();
        let edited = Message::parse(&bytes).unwrap();
        assert_eq!(edited.varint(5151), Ok(7));
        assert_eq!(edited.text(14), Ok("name"));
        assert!(edited.map_value(TYPED_PER_FILTER_CONFIG, FILTER).unwrap().is_some());
        let action = edited.message(ACTION).unwrap().unwrap();
        let action = Message::parse(&action).unwrap();
        assert_eq!(action.text(4242), Ok("kept"));
        assert_eq!(action.message(TIMEOUT).unwrap().unwrap().as_ref(), [0u8; 0]);
        assert!(action.has(RETRY_POLICY));
        let all = edited.message(METADATA).unwrap().unwrap();
        assert_eq!(
            Message::parse(&all).unwrap().map_value(FILTER_METADATA, FILTER),
            Ok(Some(build::structure(&metadata())))
        );
    }

    #[test]
    fn what_the_user_set_stays() {
        let mine = route(|action| {
            action.set_bytes(TIMEOUT, build::duration(3_600_000)).set_bytes(RETRY_POLICY, vec![8, 9]);
        });
        let bytes = attached(&mine, 1, &[]).unwrap();
        let action = Message::parse(&bytes).unwrap().message(ACTION).unwrap().unwrap().into_owned();
        let action = Message::parse(&action).unwrap();
        assert_eq!(action.message(TIMEOUT).unwrap().unwrap().as_ref(), build::duration(3_600_000));
        assert_eq!(action.message(RETRY_POLICY).unwrap().unwrap().as_ref(), [8, 9]);
    }

    #[test]
    fn attaching_again_changes_nothing() {
        let once = attached(&route(|_| ()), 5, &[]).unwrap();
        assert_eq!(attached(&once, 5, &[]).unwrap(), once);
    }

    #[test]
    fn a_weighted_list_gets_the_pools_clusters_once() {
        let mut other = Message::new();
        other.set_bytes(1, &b"invalid-backend-cluster"[..]).set_bytes(2, build::wrapped(1));
        let mut list = Message::new();
        list.push(1, other.encode());
        let bytes = route(|action| {
            action.clear(CLUSTER).set_bytes(WEIGHTED_CLUSTERS, list.encode());
        });
        let identity = identity(&bytes).unwrap();
        assert_eq!((identity.name.as_str(), identity.sends, identity.weighted), ("name", true, true));
        let clusters = [("r/backend/1".to_owned(), 70)];
        let once = attached(&bytes, 5, &clusters).unwrap();
        assert_eq!(attached(&once, 5, &clusters).unwrap(), once);
        let action = Message::parse(&once).unwrap().message(ACTION).unwrap().unwrap().into_owned();
        let list = Message::parse(&action).unwrap().message(WEIGHTED_CLUSTERS).unwrap().unwrap().into_owned();
        let list = Message::parse(&list).unwrap();
        let names: Vec<_> =
            list.all(1).map(|c| Message::parse(c.unwrap()).unwrap().text(1).unwrap().to_owned()).collect();
        assert_eq!(names, ["invalid-backend-cluster", "r/backend/1"]);
        // A route to one cluster stays one.
        assert!(!super::identity(&attached(&route(|_| ()), 5, &clusters).unwrap()).unwrap().weighted);
    }

    #[test]
    fn answers_name_their_pod_where_the_tests_ask() {
        let attachment = Attachment { metadata: &metadata(), max_body: 5, clusters: &[], name_pods: true };
        let once = attach(&route(|_| ()), attachment).unwrap();
        assert_eq!(Message::parse(&once).unwrap().all(RESPONSE_HEADERS_TO_ADD).count(), 1);
        assert_eq!(attach(&once, attachment).unwrap(), once);
        let without = attached(&route(|_| ()), 5, &[]).unwrap();
        assert!(!Message::parse(&without).unwrap().has(RESPONSE_HEADERS_TO_ADD));
    }

    #[test]
    fn a_redirect_is_left_alone() {
        let mut redirect = Message::new();
        redirect.set_bytes(3, &b"to elsewhere"[..]);
        let bytes = redirect.encode();
        assert_eq!(attached(&bytes, 5, &[]), Ok(bytes.clone()));
        assert!(!identity(&bytes).unwrap().sends);
    }
}

//! A route whose backend is a pool: the filter enabled, what the module must know in its metadata, retries, limits.

use serde_json::{Map, Value as Json};

use super::wire::{Message, WireError};
use super::{FILTER, build};

// envoy.config.route.v3.Route
const ACTION: u32 = 2;
const METADATA: u32 = 4;
const TYPED_PER_FILTER_CONFIG: u32 = 13;
const REQUEST_BODY_BUFFER_LIMIT: u32 = 20;
// envoy.config.route.v3.RouteAction
const CLUSTER: u32 = 1;
const WEIGHTED_CLUSTERS: u32 = 3;
const TIMEOUT: u32 = 8;
const RETRY_POLICY: u32 = 9;
// envoy.config.core.v3.Metadata
const FILTER_METADATA: u32 = 1;

/// The clusters that a route sends to: one, or those of its weighted list. Empty where it sends to none, as a redirect.
///
/// # Errors
/// Where the bytes are no route.
pub fn clusters(route: &[u8]) -> Result<Vec<String>, WireError> {
    let route = Message::parse(route)?;
    let Some(action) = route.message(ACTION)? else { return Ok(Vec::new()) };
    let action = Message::parse(&action)?;
    if let Some(weighted) = action.message(WEIGHTED_CLUSTERS)? {
        let weighted = Message::parse(&weighted)?;
        return weighted.all(1).map(|cluster| Ok(Message::parse(cluster?)?.text(1)?.to_owned())).collect();
    }
    Ok(Some(action.text(CLUSTER)?.to_owned()).filter(|name| !name.is_empty()).into_iter().collect())
}

/// The route with the filter enabled. `metadata` is what the module reads as property `xds.route_metadata` under our key;
/// `body_limit` is in bytes. A retry policy, a timeout or a limit that the user set stays.
///
/// # Errors
/// Where the bytes are no route.
pub fn attach(route: &[u8], metadata: &Map<String, Json>, body_limit: u64) -> Result<Vec<u8>, WireError> {
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
        Ok(())
    })?;
    if !route.has(REQUEST_BODY_BUFFER_LIMIT) {
        route.set_bytes(REQUEST_BODY_BUFFER_LIMIT, build::wrapped(body_limit));
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

/// Attempt 1 goes to the pod that was chosen; what fails before its first byte goes to the next in the list.
fn retry_policy() -> Vec<u8> {
    let mut back_off = Message::new();
    back_off.set_bytes(1, build::duration(25)).set_bytes(2, build::duration(100));
    let mut policy = Message::new();
    policy.set_bytes(1, &b"connect-failure,refused-stream,reset,retriable-status-codes"[..]);
    policy.set_bytes(2, build::wrapped(2));
    policy.set_bytes(7, vec![0xf7, 0x03]); // retriable_status_codes, packed: 503
    policy.set_bytes(8, back_off.encode());
    policy.encode()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let bytes = attach(&route(|_| ()), &metadata(), 1 << 25).unwrap();
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
        let bytes = attach(&mine, &metadata(), 1).unwrap();
        let action = Message::parse(&bytes).unwrap().message(ACTION).unwrap().unwrap().into_owned();
        let action = Message::parse(&action).unwrap();
        assert_eq!(action.message(TIMEOUT).unwrap().unwrap().as_ref(), build::duration(3_600_000));
        assert_eq!(action.message(RETRY_POLICY).unwrap().unwrap().as_ref(), [8, 9]);
    }

    #[test]
    fn attaching_again_changes_nothing() {
        let once = attach(&route(|_| ()), &metadata(), 5).unwrap();
        assert_eq!(attach(&once, &metadata(), 5).unwrap(), once);
    }

    #[test]
    fn the_clusters_are_the_one_or_the_weighted_ones() {
        assert_eq!(clusters(&route(|_| ())).unwrap(), ["httproute/default/pooled/rule/0"]);
        let mut weighted = Message::new();
        for name in ["a/backend/0", "a/backend/1"] {
            let mut cluster = Message::new();
            cluster.set_bytes(1, name.as_bytes()).set_bytes(2, build::wrapped(1));
            weighted.push(1, cluster.encode());
        }
        let bytes = route(|action| {
            action.clear(CLUSTER).set_bytes(WEIGHTED_CLUSTERS, weighted.encode());
        });
        assert_eq!(clusters(&bytes).unwrap(), ["a/backend/0", "a/backend/1"]);
    }

    #[test]
    fn a_redirect_is_left_alone() {
        let mut redirect = Message::new();
        redirect.set_bytes(3, &b"to elsewhere"[..]);
        let bytes = redirect.encode();
        assert_eq!(attach(&bytes, &metadata(), 5), Ok(bytes.clone()));
        assert_eq!(clusters(&bytes), Ok(Vec::new()));
    }
}

//! A pool's cluster: the pod that the module named first, the protocol that the pool speaks, room for many
//! requests, and none for pods that are not ready.

use super::listener::Module;
use super::wire::{Message, WireError};
use super::{DESTINATION_HEADER, build};

// envoy.config.cluster.v3.Cluster
const NAME: u32 = 1;
const CIRCUIT_BREAKERS: u32 = 10;
const COMMON_LB_CONFIG: u32 = 27;
const TYPED_EXTENSION_PROTOCOL_OPTIONS: u32 = 36;
const LOAD_BALANCING_POLICY: u32 = 41;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
// envoy.extensions.upstreams.http.v3.HttpProtocolOptions
const EXPLICIT: u32 = 3;
const USE_DOWNSTREAM: u32 = 4;
const AUTO: u32 = 5;
const HTTP_FILTERS: u32 = 6;

/// Requests, connections and waiting requests of one cluster. Envoy's own 1,024 is less than a pool of
/// engines takes, and above it Envoy answers 503 by itself; the pods say when they are full.
const ROOM: u64 = 1 << 20;

/// The name of the cluster.
///
/// # Errors
/// Where the bytes are no cluster.
pub fn name(cluster: &[u8]) -> Result<String, WireError> {
    Ok(Message::parse(cluster)?.text(NAME)?.to_owned())
}

/// The cluster with `override_host` before the policy that it has, so that a request without the header, or
/// one that names nobody of this cluster, goes by the user's policy. `h2c`: the pods speak HTTP/2 without
/// TLS. `answer`: the module that reads the answers of each attempt, in the cluster's own filter chain.
///
/// # Errors
/// Where the bytes are no cluster.
pub fn attach(cluster: &[u8], h2c: bool, answer: Option<&Module>) -> Result<Vec<u8>, WireError> {
    let mut cluster = Message::parse(cluster)?;
    let behind = cluster
        .message(LOAD_BALANCING_POLICY)?
        .map(std::borrow::Cow::into_owned)
        .unwrap_or_else(least_request);
    if !names_our_header(&behind)? {
        cluster.set_bytes(LOAD_BALANCING_POLICY, override_host(&behind));
    }
    cluster.edit(CIRCUIT_BREAKERS, make_room)?;
    cluster.edit(COMMON_LB_CONFIG, never_panic)?;
    if h2c || answer.is_some() {
        let options = cluster.map_value(TYPED_EXTENSION_PROTOCOL_OPTIONS, HTTP_OPTIONS)?.unwrap_or_default();
        let options = Message::parse(&options)?.message(2)?.unwrap_or_default().into_owned();
        let options = http_options(&options, h2c, answer)?;
        cluster.set_map_value(
            TYPED_EXTENSION_PROTOCOL_OPTIONS,
            HTTP_OPTIONS,
            build::any(HTTP_OPTIONS, &options),
        )?;
    }
    Ok(cluster.encode())
}

/// `envoy.config.cluster.v3.LoadBalancingPolicy` of one policy.
fn policy(name: &str, message_name: &str, message: &[u8]) -> Vec<u8> {
    let mut one = Message::new();
    one.set_bytes(4, build::extension(name, message_name, message));
    let mut all = Message::new();
    all.push(1, one.encode());
    all.encode()
}

const OVERRIDE_HOST: &str = "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";

fn override_host(behind: &[u8]) -> Vec<u8> {
    let mut source = Message::new();
    source.set_bytes(1, DESTINATION_HEADER.as_bytes());
    let mut config = Message::new();
    config.push(1, source.encode());
    config.set_bytes(3, behind.to_vec());
    policy("envoy.load_balancing_policies.override_host", OVERRIDE_HOST, &config.encode())
}

fn least_request() -> Vec<u8> {
    // locality_lb_config.locality_weighted_lb_config: the weights of a rule hold.
    let mut by_locality = Message::new();
    by_locality.set_bytes(2, Vec::new());
    let mut config = Message::new();
    config.set_bytes(4, by_locality.encode());
    policy(
        "envoy.load_balancing_policies.least_request",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        &config.encode(),
    )
}

/// Whether the policy is ours already.
fn names_our_header(policy: &[u8]) -> Result<bool, WireError> {
    for one in Message::parse(policy)?.all(1) {
        let one = Message::parse(one?)?;
        let extension = one.message(4)?.unwrap_or_default();
        let any = Message::parse(&extension)?.message(2)?.unwrap_or_default().into_owned();
        let any = Message::parse(&any)?;
        if !any.text(1)?.ends_with(OVERRIDE_HOST) {
            continue;
        }
        let config = any.message(2)?.unwrap_or_default();
        for source in Message::parse(&config)?.all(1) {
            if Message::parse(source?)?.text(1)? == DESTINATION_HEADER {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Room where the user set no bound: `thresholds` of the default priority.
fn make_room(breakers: &mut Message<'_>) -> Result<(), WireError> {
    if !breakers.has(1) {
        breakers.push(1, Vec::new());
    }
    breakers.edit_each(1, |bytes| {
        let mut thresholds = Message::parse(bytes)?;
        if thresholds.varint(1)? == 0 {
            // max_connections, max_pending_requests, max_requests
            for number in [2, 3, 4] {
                if !thresholds.has(number) {
                    thresholds.set_bytes(number, build::wrapped(ROOM));
                }
            }
        }
        Ok(thresholds.encode())
    })
}

/// Where the user set no threshold: where too few pods are ready, Envoy would send to those that are not, and
/// clients would wait for pods that load their model.
fn never_panic(config: &mut Message<'_>) -> Result<(), WireError> {
    // healthy_panic_threshold, a Percent: one without a value is 0.
    if !config.has(1) {
        config.set_bytes(1, Vec::new());
    }
    Ok(())
}

fn http_options(bytes: &[u8], h2c: bool, answer: Option<&Module>) -> Result<Vec<u8>, WireError> {
    let mut options = Message::parse(bytes)?;
    if h2c {
        options.clear(USE_DOWNSTREAM).clear(AUTO);
        options.edit(EXPLICIT, |explicit| {
            let settings = explicit.message(2)?.unwrap_or_default().into_owned();
            explicit.clear(1).clear(3).set_bytes(2, settings); // http2_protocol_options
            Ok(())
        })?;
    } else if !(options.has(EXPLICIT) || options.has(USE_DOWNSTREAM) || options.has(AUTO)) {
        let mut http1 = Message::new();
        http1.set_bytes(1, Vec::new());
        options.set_bytes(EXPLICIT, http1.encode());
    }
    if let Some(module) = answer {
        let mut filters = vec![module.http_filter("answer", "warmpath-answer", false)];
        for filter in options.all(HTTP_FILTERS) {
            let filter = filter?;
            if Message::parse(filter)?.text(1)? != "warmpath-answer" {
                filters.push(filter.to_vec());
            }
        }
        if filters.len() == 1 {
            let mut codec = Message::new();
            codec.set_bytes(1, &b"envoy.filters.http.upstream_codec"[..]);
            codec.set_bytes(
                4,
                build::any("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec", &[]),
            );
            filters.push(codec.encode());
        }
        options.set_all(HTTP_FILTERS, filters);
    }
    Ok(options.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Vec<u8> {
        let mut thresholds = Message::new();
        thresholds.set_bytes(5, build::wrapped(1024)).set_bytes(4, build::wrapped(7));
        let mut breakers = Message::new();
        breakers.push(1, thresholds.encode());
        let mut cluster = Message::new();
        cluster
            .set_bytes(NAME, &b"httproute/default/r/rule/0"[..])
            .set_bytes(CIRCUIT_BREAKERS, breakers.encode());
        cluster.set_bytes(LOAD_BALANCING_POLICY, policy("of.the.user", "example.Policy", &[8, 1]));
        cluster.set_varint(3333, 5);
        cluster.encode()
    }

    #[test]
    fn the_users_policy_stands_behind_ours() {
        let bytes = attach(&cluster(), false, None).unwrap();
        let edited = Message::parse(&bytes).unwrap();
        assert_eq!(edited.varint(3333), Ok(5));
        assert!(!edited.has(TYPED_EXTENSION_PROTOCOL_OPTIONS));
        let ours = edited.message(LOAD_BALANCING_POLICY).unwrap().unwrap();
        assert_eq!(ours.as_ref(), override_host(&policy("of.the.user", "example.Policy", &[8, 1])));
        assert!(names_our_header(&ours).unwrap());
        assert_eq!(attach(&bytes, false, None).unwrap(), bytes);
    }

    #[test]
    fn bounds_that_the_user_set_stay() {
        let bytes = attach(&cluster(), false, None).unwrap();
        let breakers =
            Message::parse(&bytes).unwrap().message(CIRCUIT_BREAKERS).unwrap().unwrap().into_owned();
        let breakers = Message::parse(&breakers).unwrap();
        let thresholds = Message::parse(breakers.all(1).next().unwrap().unwrap()).unwrap();
        assert_eq!(thresholds.message(4).unwrap().unwrap().as_ref(), build::wrapped(7));
        assert_eq!(thresholds.message(2).unwrap().unwrap().as_ref(), build::wrapped(ROOM));
    }

    #[test]
    fn envoy_sends_to_no_pod_that_is_not_ready_unless_the_user_wants_it() {
        let threshold = |bytes: &[u8]| {
            let attached = attach(bytes, false, None).unwrap();
            let config =
                Message::parse(&attached).unwrap().message(COMMON_LB_CONFIG).unwrap().unwrap().into_owned();
            Message::parse(&config).unwrap().message(1).unwrap().unwrap().into_owned()
        };
        assert!(threshold(&cluster()).is_empty(), "a percentage without a value is 0");
        let mut percent = Message::new();
        percent.set_double(1, 50.0);
        let mut config = Message::new();
        config.set_bytes(1, percent.encode());
        let bytes = cluster();
        let mut cluster = Message::parse(&bytes).unwrap();
        cluster.set_bytes(COMMON_LB_CONFIG, config.encode());
        assert_eq!(threshold(&cluster.encode()), percent.encode());
    }

    #[test]
    fn a_pool_of_http2_is_spoken_to_so() {
        let bytes = attach(&cluster(), true, None).unwrap();
        let any = Message::parse(&bytes)
            .unwrap()
            .map_value(TYPED_EXTENSION_PROTOCOL_OPTIONS, HTTP_OPTIONS)
            .unwrap()
            .unwrap();
        let options = Message::parse(&any).unwrap().message(2).unwrap().unwrap().into_owned();
        let explicit = Message::parse(&options).unwrap().message(EXPLICIT).unwrap().unwrap().into_owned();
        let explicit = Message::parse(&explicit).unwrap();
        assert!(explicit.has(2) && !explicit.has(1));
    }

    #[test]
    fn the_answer_filter_stands_first_and_the_codec_last() {
        let module = Module::new(vec![0, b'a', b's', b'm'], "{}");
        let once = attach(&cluster(), false, Some(&module)).unwrap();
        assert_eq!(attach(&once, false, Some(&module)).unwrap(), once);
        let any = Message::parse(&once)
            .unwrap()
            .map_value(TYPED_EXTENSION_PROTOCOL_OPTIONS, HTTP_OPTIONS)
            .unwrap()
            .unwrap();
        let options = Message::parse(&any).unwrap().message(2).unwrap().unwrap().into_owned();
        let options = Message::parse(&options).unwrap();
        let names: Vec<_> = options
            .all(HTTP_FILTERS)
            .map(|f| Message::parse(f.unwrap()).unwrap().text(1).unwrap().to_owned())
            .collect();
        assert_eq!(names, ["warmpath-answer", "envoy.filters.http.upstream_codec"]);
    }
}

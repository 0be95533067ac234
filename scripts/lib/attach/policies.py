"""The policies' text, comments and all. Each function prints one object; `text` is the order in which they are applied."""

import json
import re

from ..common import ROOT
from . import in_process

LABEL = "app.kubernetes.io/part-of: warmpath"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
# A plain Envoy's configuration has the labels of Warmpath's metrics, and here they are the same.
PLAIN = ROOT / "envoy" / "envoy.yaml"


def text(options, facts):
    """All of it, as one YAML file."""
    gateway = f"{options.namespace}/{options.gateway}"
    with_http3 = [each for each in facts.listeners if each.http3]
    return "---\n".join(
        [
            head(options)
            + patches(
                options,
                facts,
                options.name,
                FIRST_PATCHES,
                sorted({f"{gateway}/{each.first}" for each in facts.listeners}),
                sorted({f"{gateway}/{each.first}-quic" for each in with_http3}),
            ),
            patches(
                options,
                facts,
                f"{options.name}-by-port",
                SECOND_PATCHES,
                [f"tcp-{port}" for port in sorted({each.port for each in facts.listeners})],
                [f"udp-{port}" for port in sorted({each.port for each in with_http3})],
            ),
            extension(options, facts),
            backend_traffic(options),
            *answer_filter(options, facts),
            proxy(options, facts),
        ]
    )


def head(options):
    attached = (
        f"routes {', '.join(options.route)}" if options.route else f"routes with the label {'='.join(options.selector)}"
    )
    return f"""\
# Attaches Warmpath to Gateway {options.namespace}/{options.gateway}, {attached}. Printed by scripts/kubernetes-manifests;
# docs/envoy-gateway.md explains each policy. `kubectl apply -f` applies them in this order, and the order matters: a filter
# that is not patched yet could not wait for a request's body. `kubectl delete -f` takes all of it away again.
"""


def metadata(options, name):
    return f"metadata: {{ name: {name}, namespace: {options.namespace}, labels: {{ {LABEL} }} }}"


def quoted(value):
    """A string in YAML's double quotes, which are those of JSON."""
    return json.dumps(value)


# The patches -------------------------------------------------------------------------------------------------------

FIRST_PATCHES = """\
# What no other policy can say, patched into the listener that Envoy Gateway writes:
#   - allow_on_headers_stop_iteration: Warmpath waits for the body of a request before it names a pod. Without the flag Envoy
#     would hold the request and never show the body.
#   - fail_open goes, failure_policy: FAIL_RELOAD comes; they exclude each other. After a trap Envoy makes the worker's VM
#     anew, where fail_open would leave that worker unrouted until the listener changes.
#   - vm_config.configuration is the module's checksum. Envoy names a VM before it has fetched its code, so that without
#     another configuration a new module would be fetched and the old one go on running.
#   - Headers that name a pod are Warmpath's own: a client's are taken away before any filter sees them, also while there is
#     no module. A ClientTrafficPolicy could do this, but a listener takes only one, which may be there already.
#   - The buffer limit: 32 KiB is what Envoy Gateway sets, and a request's body above the limit gets 413. A body that is
#     buffered can be sent again to another pod.
# A listener has two names in Envoy, and a patch names one: this policy has the name of Envoy Gateway up to 1.9, the next one
# that from 1.10 on. Of the two, one is Programmed, and the other says ResourceNotFound: that is as it should be.
"""
SECOND_PATCHES = """\
# The same patches under the names that listeners have from Envoy Gateway 1.10 on, and with the runtime flag XDSNameSchemeV2.
"""


def patch_head(options, facts, name, why):
    """The beginning of an EnvoyPatchPolicy, up to its list of patches."""
    kind, target = ("GatewayClass", facts.merged_class) if facts.merged_class else ("Gateway", options.gateway)
    lines = [
        f"{why}apiVersion: gateway.envoyproxy.io/v1alpha1",
        "kind: EnvoyPatchPolicy",
        metadata(options, name),
        "spec:",
        *(["  # Merged Gateways have one Envoy, and its patches name the class."] if facts.merged_class else []),
        f"  targetRef: {{ group: gateway.networking.k8s.io, kind: {kind}, name: {target} }}",
        "  type: JSONPatch",
        "  jsonPatches:",
    ]
    return "\n".join(lines) + "\n"


def patches(options, facts, name, why, tcp, quic):
    lines = []
    for listener in [*tcp, *quic]:
        for operation in operations(options, buffered=listener in tcp):
            lines += [f"    - type: {LISTENER}", f"      name: {listener}", "      operation:"]
            lines += [f"        {line}" for line in operation]
    return patch_head(options, facts, name, why) + "\n".join(lines) + "\n"


def operations(options, buffered):
    """The patches of one listener, as lines. Each path finds every filter chain: one with TLS has a chain for each host name."""
    filter_name = f"envoy.filters.http.wasm/{in_process.vm_id(options)}"
    config = f"..http_filters[?(@.name=='{filter_name}')].typed_config.config"
    manager = "..filters[?(@.name=='envoy.filters.network.http_connection_manager')].typed_config"
    string = "type.googleapis.com/google.protobuf.StringValue"
    strip = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"

    def add(where, path, *value):
        return ["op: add", f'jsonPath: "{where}"', f"path: {path}", *value]

    # Those that hold whatever becomes of the module come first.
    yield add(
        manager,
        "/early_header_mutation_extensions/-",
        "value:",
        "  name: warmpath",
        "  typed_config:",
        f'    "@type": {strip}',
        "    mutations:",
        "      - remove_on_match: { key_matcher: { prefix: x-warmpath- } }",
        "      - remove: x-data-parallel-rank",
    )
    if buffered:
        size = options.max_body_mib * 1024 * 1024
        yield ["op: add", "path: /per_connection_buffer_limit_bytes", f"value: {size}"]
    yield ["op: remove", f'jsonPath: "{config}.fail_open"']
    yield add(config, "/failure_policy", "value: FAIL_RELOAD")
    yield add(config, "/allow_on_headers_stop_iteration", "value: true")
    yield add(
        f"{config}.vm_config", "/configuration", f'value: {{ "@type": {string}, value: {quoted(options.sha256)} }}'
    )


# The others --------------------------------------------------------------------------------------------------------


def target(options):
    if options.selector:
        key, value = options.selector
        chosen = f"{{ group: gateway.networking.k8s.io, kind: HTTPRoute, matchLabels: {{ {quoted(key)}: {quoted(value)} }} }}"
        return f"  targetSelectors:\n    - {chosen}"
    names = [f"    - {{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name} }}" for name in options.route]
    return "\n".join(["  targetRefs:", *names])


def settings(options):
    """Warmpath's own settings: the pods come from Envoy itself, and the pod is named in one header."""
    return {
        "pool": options.pool,
        "strategy": options.strategy,
        "fail_open": not options.fail_closed,
        "destination": "list",
        "discovery": {"cluster": "prometheus_stats"},
        "scrape": {"interval_ms": options.scrape_ms, "idle_interval_ms": options.scrape_ms * 10},
        "index": {"max_mib": options.index_mib},
    }


def extension(options, facts):
    merge = (
        """\
  # A policy on a route takes the place of the Gateway's. Merged, what stands there already (a door, a stamp) keeps its effect.
  mergeType: StrategicMerge
"""
        if facts.merges_extensions
        else "  # This Envoy Gateway cannot merge: an EnvoyExtensionPolicy on the Gateway would have no effect on these routes.\n"
    )
    if options.module_url:
        code = f"{{ type: HTTP, http: {{ url: {quoted(options.module_url)}, sha256: {options.sha256} }} }}"
    else:
        code = f"{{ type: Image, image: {{ url: {quoted(options.module_image)}, sha256: {options.sha256} }} }}"
    shown = json.dumps(settings(options), indent=2).replace("\n", "\n        ")
    return f"""\
# Warmpath itself: the filter that reads a request and names the pod.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
{metadata(options, options.name)}
spec:
{target(options)}
{merge}  wasm:
    - name: warmpath
      rootID: router
      # For Envoy Gateway: without it, a module that it cannot download turns the routes into 500. Patched out again for Envoy.
      failOpen: true
      code: {code}
      config:
        {shown}
"""


def backend_traffic(options):
    return f"""\
# What Envoy does with the pod that Warmpath names, and when that pod fails.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
{metadata(options, options.name)}
spec:
{target(options)}
  # As above: limits and the like that the Gateway's policy sets stay.
  mergeType: StrategicMerge
  loadBalancer:
    # For requests without a name: no table of pods yet, no module, or none of the named pods is there any more.
    type: LeastRequest
    # First the pod that Warmpath prefers, then its runners-up; an address that is not one of the Service's pods is skipped.
    endpointOverride: {{ extractFrom: [{{ header: x-warmpath-destination }}] }}
  # What a pod has not answered a byte of goes to the next one on the list. 503 is what vLLM says when it is full, and 502
  # a server beside it that does not reach it.
  retry:
    numRetries: 2
    retryOn:
      triggers: [connect-failure, refused-stream, reset, retriable-status-codes]
      httpStatusCodes: [502, 503]
    perRetry: {{ backOff: {{ baseInterval: 25ms, maxInterval: 100ms }} }}
  # When no pod is ready, 503 at once. Envoy would send to pods that are not ready, from half of them on.
  healthCheck: {{ panicThreshold: 0 }}
  # Envoy's own limit is 15 s, and a long answer takes longer.
  timeout: {{ http: {{ requestTimeout: {options.request_timeout} }} }}
  # Envoy's own limit is 1024 of each; one more gets 503.
  circuitBreaker: {{ maxConnections: {options.max_requests}, maxPendingRequests: {options.max_requests}, maxParallelRequests: {options.max_requests}, maxParallelRetries: {options.max_requests} }}
"""


def answer_filter(options, facts):
    if not options.answer_filter:
        return []

    def head(name, why):
        return patch_head(options, facts, name, why)

    return [in_process.answer_patches(options, facts, settings(options), head)]


def tags():
    """The labels of Warmpath's metrics, as lines of YAML from the plain Envoy's configuration."""
    return re.findall(r"^ *(- \{ tag_name: .*warmpath_.* \})$", PLAIN.read_text(), re.MULTILINE)


# Three fields of ours, and those that Envoy Gateway has written since 1.6 (`EnvoyJSONLogFields` in internal/xds/translator/accesslog.go).
DECISION = "%REQ(X-WARMPATH-DECISION)%"
ACCESS_LOG = f"""\
  # Each line of the access log says why its request went to its pod: "The access log" in docs/operations.md. Envoy Gateway writes
  # either its own fields or these, so its own are here too.
  telemetry:
    accessLog:
      settings:
        - sinks: [{{ type: File, file: {{ path: /dev/stdout }} }}]
          format:
            type: JSON
            json:
              # The pods that Warmpath has named, the best first; where upstream_host is another one, a runner-up has answered.
              chosen: "%REQ(X-WARMPATH-DESTINATION)%"
              # Why, and how many prompt tokens the pod was believed to hold, of how many.
              decision: "{DECISION}"
              # When the first token came, and how many prompt tokens the answer says to come from the cache, of how many.
              answer: "%FILTER_STATE(wasm.warmpath.answer:PLAIN)%"
              start_time: "%START_TIME%"
              method: "%REQ(:METHOD)%"
              x-envoy-origin-path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"
              protocol: "%PROTOCOL%"
              response_code: "%RESPONSE_CODE%"
              response_flags: "%RESPONSE_FLAGS%"
              response_code_details: "%RESPONSE_CODE_DETAILS%"
              connection_termination_details: "%CONNECTION_TERMINATION_DETAILS%"
              upstream_transport_failure_reason: "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
              bytes_received: "%BYTES_RECEIVED%"
              bytes_sent: "%BYTES_SENT%"
              duration: "%DURATION%"
              x-envoy-upstream-service-time: "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"
              x-forwarded-for: "%REQ(X-FORWARDED-FOR)%"
              user-agent: "%REQ(USER-AGENT)%"
              x-request-id: "%REQ(X-REQUEST-ID)%"
              ":authority": "%REQ(:AUTHORITY)%"
              upstream_host: "%UPSTREAM_HOST%"
              upstream_cluster: "%UPSTREAM_CLUSTER%"
              upstream_local_address: "%UPSTREAM_LOCAL_ADDRESS%"
              downstream_local_address: "%DOWNSTREAM_LOCAL_ADDRESS%"
              downstream_remote_address: "%DOWNSTREAM_REMOTE_ADDRESS%"
              requested_server_name: "%REQUESTED_SERVER_NAME%"
              route_name: "%ROUTE_NAME%"
"""


def proxy(options, facts):
    lines = "\n".join(f"          {line}" for line in tags())
    how, mounts, more = "", "", ""
    if in_process.needs_file(options):
        how, mounts = in_process.how_to_mount(options), in_process.mounts(options)
    if options.collector == "singleton":
        more += in_process.singleton(options, settings(options))
    if options.pages:
        more += in_process.pages(options, settings(options))
    return f"""\
# Settings of the Envoy process. {use_proxy(options, facts)}
{how}apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
{metadata(options, options.name)}
spec:
  # A changed module or setting is a changed listener, and Envoy cuts what still runs on the old one after 60 s otherwise.
  shutdown: {{ drainTimeout: {options.drain_time} }}
{mounts}  # Warmpath says in the log which version runs, which pods it finds, and why it cannot route.
  logging: {{ level: {{ default: warn, wasm: info }} }}
{ACCESS_LOG}  # The labels of Warmpath's metrics; without them they are part of the names.
  bootstrap:
    type: Merge
    value: |
      stats_config:
        stats_tags:
{lines}
{more}"""


def use_proxy(options, facts):
    if facts.proxy:
        has = f"{facts.proxy['metadata']['namespace']}/{facts.proxy['metadata']['name']}"
        return f"""\
Not in force: the Gateway uses EnvoyProxy {has}, which is not
# changed here. Add the fields below to it by hand; this object itself does nothing and may be left out."""
    return f"""\
In force once the Gateway names it, which starts its Envoys anew:
#   kubectl patch gateway {options.gateway} --namespace {options.namespace} --type merge --patch '{{"spec": {{"infrastructure": {{"parametersRef":
#     {{"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "{options.name}"}}}}}}}}'"""

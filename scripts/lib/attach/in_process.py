"""What of Warmpath runs in Envoy's process besides the filter, all of it from the module as a file in Envoy's pods: the collector
as a singleton (`--collector singleton`), the pages that show what it knows (`--pages`), and the filter of answers
(`--answer-filter`)."""

import json

FOLDER = "/warmpath"
FILE = f"{FOLDER}/warmpath.wasm"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
STRING = "type.googleapis.com/google.protobuf.StringValue"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
WASM = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
# Each page by its role: where it listens. Prometheus asks from another pod; the console is for `kubectl port-forward`.
PAGES = {"monitor": ("0.0.0.0", 9902), "console": ("127.0.0.1", 9903)}


def vm_id(options):
    """Envoy Gateway's name for the filter's VMs. Shared data is visible within one `vm_id` only."""
    return f"envoyextensionpolicy/{options.namespace}/{options.name}/wasm/0"


def plugin(options, settings, role):
    """The settings of a plugin of this role, with a VM of its own."""
    return {
        "name": f"warmpath-{role}",
        "root_id": role,
        "vm_config": {
            "vm_id": vm_id(options),
            # Envoy names a VM by this too: a new module is a new VM, and no role shares one with another.
            "configuration": {"@type": STRING, "value": f"{role} {options.sha256}"},
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": FILE}},
        },
        "configuration": {"@type": STRING, "value": json.dumps(settings)},
    }


def needs_file(options):
    """Whether Envoy's pods need the module as a file."""
    return options.collector == "singleton" or options.pages


def how_to_mount(options):
    """The comment with the command for the ConfigMap."""
    return f"""\
# The module as a file in Envoy's pods. Make the ConfigMap in the namespace of these pods before you apply
# this; a new module needs the command again, and new pods:
#   kubectl create configmap {options.name}-module --namespace envoy-gateway-system --from-file=warmpath.wasm=target/warmpath.wasm \\
#     --dry-run=client --output yaml | kubectl apply --server-side --filename -
"""


def mounts(options):
    """Lines of the EnvoyProxy that mount the module."""
    volume = f"{options.name}-module"
    return f"""\
  provider:
    type: Kubernetes
    kubernetes:
      envoyDeployment:
        pod: {{ volumes: [{{ name: {volume}, configMap: {{ name: {volume} }} }}] }}
        container: {{ volumeMounts: [{{ name: {volume}, mountPath: {FOLDER}, readOnly: true }}] }}
"""


def singleton(options, settings):
    """Lines of Envoy's bootstrap that run the collector on its main thread."""
    service = {
        "@type": "type.googleapis.com/envoy.extensions.wasm.v3.WasmService",
        "singleton": True,
        "config": plugin(options, settings, "collector"),
    }
    shown = json.dumps([{"name": "envoy.bootstrap.wasm", "typed_config": service}], indent=2).splitlines()
    return "\n".join(["      bootstrap_extensions:", *[f"        {line}" for line in shown]]) + "\n"


def pages(options, settings):
    """Lines of Envoy's bootstrap with a listener for each page. The filter answers itself, and nothing else is there."""
    nothing = {"name": "all", "domains": ["*"], "routes": []}
    listeners = []
    for role, (address, port) in PAGES.items():
        config = plugin(options, settings, role) | {"failure_policy": "FAIL_RELOAD"}
        # One VM for all that only shows.
        config["vm_config"]["configuration"] = {"@type": STRING, "value": f"pages {options.sha256}"}
        manager = {
            "@type": MANAGER,
            "stat_prefix": f"warmpath-{role}",
            "request_headers_timeout": "10s",
            "http_filters": [
                {"name": "envoy.filters.http.wasm", "typed_config": {"@type": WASM, "config": config}},
                {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}},
            ],
            "route_config": {"name": f"warmpath-{role}", "virtual_hosts": [nothing]},
        }
        network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        place = {"socket_address": {"address": address, "port_value": port}}
        listeners.append({"name": f"warmpath-{role}", "address": place, "filter_chains": [{"filters": [network]}]})
    shown = json.dumps(listeners, indent=2).splitlines()
    return "\n".join(["      static_resources:", "        listeners:", *[f"          {line}" for line in shown]]) + "\n"


def clusters(options, facts):
    """Envoy's names of the clusters that the routes send to, one for each rule. Without a cluster to ask, a route has one."""
    rules = {route["metadata"]["name"]: len(route["spec"].get("rules", [])) for route in facts.routes}
    names = list(rules) if rules else options.route
    return [f"httproute/{options.namespace}/{name}/rule/{nth}" for name in names for nth in range(rules.get(name, 1))]


def answer_patches(options, facts, settings, head):
    """The EnvoyPatchPolicy that puts the filter of answers into each cluster; `head` prints its beginning."""
    codec = "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    config = plugin(options, settings, "answer")
    config |= {"failure_policy": "FAIL_RELOAD", "allow_on_headers_stop_iteration": True}
    filters = [
        {"name": "envoy.filters.http.wasm", "typed_config": {"@type": WASM, "config": config}},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": {"@type": codec}},
    ]
    # Envoy Gateway gives a cluster no such options, as long as its backends speak HTTP/1.1 in the clear.
    http = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http_protocol_options": {}}}
    options_of_cluster = {HTTP_OPTIONS: http | {"http_filters": filters}}
    text = head(
        f"{options.name}-answer",
        """\
# The filter of answers. It stands in the cluster of each rule, because Envoy takes the filters of an attempt from there: a stream
# that fails before its first token goes to another pod. A rule that comes later has none until this is printed again.
""",
    )
    for name in clusters(options, facts):
        text += f"""\
    - type: {CLUSTER}
      name: {name}
      operation:
        op: add
        path: /typed_extension_protocol_options
        value: {json.dumps(options_of_cluster)}
"""
    return text

"""What flags of scripts/envoy-config add to envoy/envoy.yaml, which has only their places: listeners, clusters, headers, tags."""

import hashlib
import json
import urllib.parse


def tracer():
    """The tracer of the routed port, and the tags of its spans: names of OpenTelemetry where it has some."""
    tags = {
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "%FILTER_STATE(wasm.warmpath.model:PLAIN)%",
        "gen_ai.usage.input_tokens": "%FILTER_STATE(wasm.warmpath.prompt_tokens:PLAIN)%",
        "gen_ai.usage.cache_read.input_tokens": "%FILTER_STATE(wasm.warmpath.cached_tokens:PLAIN)%",
        "warmpath.pod": "%UPSTREAM_HOST%",
        "warmpath.chosen": "%REQ(X-WARMPATH-DESTINATION-0)%",
        "warmpath.attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "warmpath.decision": "%REQ(X-WARMPATH-DECISION)%",
        "warmpath.answer": "%FILTER_STATE(wasm.warmpath.answer:PLAIN)%",
    }
    return [
        "# A client's own request id is no UUID, in which Envoy would keep whether the request is traced.",
        "request_id_extension:",
        "  typed_config:",
        '    "@type": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig',
        "    use_request_id_for_trace_sampling: false",
        "tracing:",
        "  provider:",
        "    name: envoy.tracers.opentelemetry",
        "    typed_config:",
        '      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig',
        "      grpc_service: { envoy_grpc: { cluster_name: warmpath-otlp }, timeout: 1s }",
        "      service_name: warmpath",
        "  custom_tags:",
    ] + [f'    - {{ tag: {tag}, value: "{value}" }}' for tag, value in tags.items()]


def quoted(host):
    """An address as YAML takes it: one with colons would be a mapping."""
    return f'"{host}"' if ":" in host else host


def socket(host, port):
    return f"{{ socket_address: {{ address: {quoted(host)}, port_value: {port} }} }}"


def cluster(name, kind, connect_timeout, address):
    """Lines of a cluster with one endpoint."""
    return [
        f"    - name: {name}",
        f"      type: {kind}",
        f"      connect_timeout: {connect_timeout}",
        "      load_assignment:",
        f"        cluster_name: {name}",
        "        endpoints:",
        "          - lb_endpoints:",
        f"              - endpoint: {{ address: {address} }}",
    ]


def otlp_cluster(host, port):
    """How the tracer reaches the collector of spans."""
    return [
        "",
        *cluster("warmpath-otlp", "STRICT_DNS", "1s", socket(host, port)),
        "      typed_extension_protocol_options:",
        "        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:",
        '          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
        "          explicit_http_config: { http2_protocol_options: {} } # OTLP over gRPC",
    ]


SETTINGS_FILE = """
    # ------------------------------------------------------------------------ the file with the settings
    # A module cannot read files. Here Envoy reads one for it, at each look. No port leads here, but any program in Envoy's
    # network namespace can ask for the file: keep nothing secret in it.
    - name: warmpath-settings
      address: {{ pipe: {{ path: "{pipe}" }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: warmpath-settings
                http_filters:
                  - name: envoy.filters.http.lua
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          function envoy_on_request(handle)
                            local file = io.open({file}, "rb")
                            -- A folder can be opened and not be read.
                            local text = file and file:read("*a")
                            if file then file:close() end
                            handle:respond({{[":status"] = text and "200" or "404"}}, text or "")
                          end
                  - name: envoy.filters.http.router
                    typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
                route_config: {{ name: warmpath-settings }}"""

SETTINGS_CLUSTER = [
    "",
    "    # ------------------------------------------------------------------- how the collector reads the settings",
    "    # No route names this cluster, so no client can reach it.",
]

SETTINGS_TLS = """\
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: {host}
          common_tls_context:
            validation_context:
              # The root certificates of Debian, Ubuntu and Envoy's own image.
              trusted_ca: {{ filename: /etc/ssl/certs/ca-certificates.crt }}
              match_typed_subject_alt_names:
                - {{ san_type: DNS, matcher: {{ exact: {host} }} }}"""


def poll_settings(template, options):
    """Lets the collector look at a file or a page for newer settings."""
    source = {"cluster": "warmpath-settings"}
    if options.settings_file:
        # The listener does not look at the path. The module's lines in the log name the page by it.
        source["path"] = urllib.parse.quote(options.settings_file)
        # An abstract name is gone with its process. Two Envoys of one machine have different files, or different ports.
        digest = hashlib.sha256(f"{options.settings_file} {options.port}".encode()).hexdigest()[:16]
        pipe = f"@warmpath-settings-{digest}"
        listener = SETTINGS_FILE.format(pipe=pipe, file=json.dumps(options.settings_file, ensure_ascii=False))
        template.before("  clusters:", listener.splitlines())
        kind, address, tls = "STATIC", f'{{ pipe: {{ path: "{pipe}" }} }}', []
    else:
        scheme, host, port, named, path = options.settings_url
        source |= {"host": named, "path": path}
        kind, address = "STRICT_DNS", socket(host, port)
        tls = SETTINGS_TLS.format(host=host).splitlines() if scheme == "https" else []
    template.lines += [*SETTINGS_CLUSTER, *cluster("warmpath-settings", kind, "2s", address), *tls]
    template.more_settings({"settings": source | {"interval_ms": options.settings_ms}})


def receipt():
    """Headers of an answer that tell of the decision."""
    headers = {
        "x-warmpath-pod": "%UPSTREAM_HOST%",
        "x-warmpath-chosen": "%REQ(X-WARMPATH-DESTINATION-0)%",
        "x-warmpath-reason": "%REQ(X-WARMPATH-REASON)%",
        "x-warmpath-matched": "%REQ(X-WARMPATH-MATCHED)%",
    }
    lines = ["response_headers_to_add:"]
    for key, value in headers.items():
        lines += [f'  - header: {{ key: {key}, value: "{value}" }}', "    append_action: OVERWRITE_IF_EXISTS_OR_ADD"]
    return lines


ADMIN_CLUSTER = [
    "",
    "    # --------------------------------------------------------------- how the collector finds the pods",
    "    # Envoy's own admin page lists the hosts of each cluster. No route names this cluster, so no client can reach it.",
]


def discover(template, options):
    """The pods are the hosts of a cluster that resolves names, and not a list."""
    settings = f'"discovery": {{ "cluster": "warmpath-discovery", "pods_of": {json.dumps(options.discover)} }},'
    template.rename(r'"pods": \[.*\],', settings, 1)
    template.rename(r"\bwarmpath-fallback\b", options.discover)
    # These two have the pods as hosts.
    for name in (options.discover, "plain"):
        by_name = "type: STRICT_DNS # each address of each name is a pod\n      dns_lookup_family: V4_PREFERRED"
        template.after(f"- name: {name}", "type: STATIC", by_name)
    admin = socket("127.0.0.1", options.admin_port)
    template.lines += [*ADMIN_CLUSTER, *cluster("warmpath-discovery", "STATIC", "0.5s", admin)]

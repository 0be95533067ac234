"""The endpoint picker (EPP) of llm-d, as a gateway to measure Warmpath against: Envoy asks it by ext_proc, in both directions.

`--epp PATH` names its program (llm-d-router, `CGO_ENABLED=0 go build -o epp ./cmd/epp`). It runs as its chart has it: the default
profile, gRPC over TLS with a certificate of its own, FULL_DUPLEX_STREAMED, pods by a header for an ORIGINAL_DST cluster. It finds
pods in a file, so nothing of Kubernetes is needed. Envoy's log, limits and retries are those of the plain port.
"""

import tempfile
from pathlib import Path

from .client import ask, chat
from .common import Failure
from .gateway import Envoy, without_warmpath
from .processes import Process, free_ports, wait_for

ROUTER = "                  - name: envoy.filters.http.router\n"
TO_PLAIN = "\n                            cluster: plain\n"

# The plugins and weights that the chart installs.
CONFIGURATION = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- { type: queue-scorer }
- { type: kv-cache-utilization-scorer }
- { type: prefix-cache-scorer }
- { type: metrics-data-source, parameters: { scheme: http, path: /metrics, insecureSkipVerify: true } }
- { type: core-metrics-extractor }
- { type: file-discovery, name: file-discovery, parameters: { path: ENDPOINTS, watchFile: false } }
schedulingProfiles:
- name: default
  plugins:
  - { pluginRef: queue-scorer, weight: 2 }
  - { pluginRef: kv-cache-utilization-scorer, weight: 2 }
  - { pluginRef: prefix-cache-scorer, weight: 3 }
dataLayer:
  discovery: { pluginRef: file-discovery }
"""

FILTER = """\
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service: { envoy_grpc: { cluster_name: ext_proc, authority: "localhost:9002" }, timeout: 10s }
                      processing_mode:
                        request_header_mode: SEND
                        response_header_mode: SEND
                        request_body_mode: FULL_DUPLEX_STREAMED
                        response_body_mode: FULL_DUPLEX_STREAMED
                        request_trailer_mode: SEND
                        response_trailer_mode: SEND
                      message_timeout: 1000s
"""

CLUSTERS = """
    - name: original_destination_cluster
      type: ORIGINAL_DST
      lb_policy: CLUSTER_PROVIDED
      original_dst_lb_config: { use_http_header: true, http_header_name: x-gateway-destination-endpoint }
      connect_timeout: 0.5s
      circuit_breakers: *limits
      typed_extension_protocol_options: *to_vllm
    - name: ext_proc
      type: STATIC
      connect_timeout: 86400s
      lb_policy: LEAST_REQUEST
      circuit_breakers:
        thresholds: [{ max_connections: 40000, max_pending_requests: 40000, max_requests: 40000, max_retries: 1024 }]
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context: { alpn_protocols: ["h2"], validation_context: {} }
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options: { initial_stream_window_size: 65536, initial_connection_window_size: 1048576 }
      load_assignment:
        cluster_name: ext_proc
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: PORT } } }
"""


class EnvoyWithPicker:
    """An Envoy and the picker that it asks. `refresh_ms`: between two readings of a pod's metrics, where the picker's default of
    50 is not meant."""

    def __init__(self, envoy, program, pods, *, name, options, cpu=None, workers=1, refresh_ms=None):
        self.temporary = tempfile.TemporaryDirectory(prefix="warmpath-epp-")
        folder = Path(self.temporary.name)
        lines = [
            f'- {{ name: pod-{nth}, address: "{host}", port: "{port}" }}'
            for nth, (host, _, port) in enumerate(pod.rpartition(":") for pod in pods)
        ]
        (folder / "endpoints.yaml").write_text("\n".join(["endpoints:", *lines]) + "\n")
        (folder / "epp.yaml").write_text(CONFIGURATION.replace("ENDPOINTS", str(folder / "endpoints.yaml")))
        grpc, health, metrics = free_ports(3)
        command = [program, "--pool-name", "bench", "--pool-namespace", "bench", "--config-file", folder / "epp.yaml"]
        command += ["--grpc-port", grpc, "--grpc-health-port", health, "--metrics-port", metrics]
        command += ["--tracing=false", "--metrics-endpoint-auth=false", "--zap-encoder", "json"]
        if refresh_ms:
            command += ["--refresh-metrics-interval", f"{refresh_ms}ms"]
        picker = Process(f"{name}: the picker", command, cpu)
        self.envoy = Envoy(
            envoy, pods, name=name, edit=lambda text: asking(text, grpc), options=options, workers=workers, cpu=cpu
        )
        self.port = self.envoy.plain_port
        self.process = Together(self.envoy.process, picker)

    def answers(self):
        """Waits until a pod is reached; one with another model says 404. Until the picker listens, each request gets 500."""
        body = chat("warmpath-bench")
        reached = lambda: ask(self.port, "POST", "/v1/chat/completions", body)[0] in (200, 404)  # noqa: E731
        wait_for(f"{self.process.name} to answer", reached)
        return self

    def end(self):
        self.process.end()
        self.temporary.cleanup()


def asking(text, port):
    """The plain port's configuration, with the picker asked about each request and its answer."""
    text = without_warmpath(text)
    if text.count(ROUTER) < 1 or text.count(TO_PLAIN) != 1:
        raise Failure("envoy/envoy.yaml has changed: its plain port is not found")
    text = text.replace(ROUTER, FILTER + ROUTER, 1)
    text = text.replace(TO_PLAIN, TO_PLAIN.replace("plain", "original_destination_cluster"))
    return text + CLUSTERS.replace("PORT", str(port))


class Together:
    """Processes that are one gateway, measured as one. The first one is that whose words count."""

    def __init__(self, *processes):
        self.all = processes
        self.name = processes[0].name

    @property
    def pids(self):
        return [pid for process in self.all for pid in process.pids]

    def alive(self):
        return all(process.alive() for process in self.all)

    def must_run(self):
        for process in self.all:
            process.must_run()

    def said(self):
        return self.all[0].said()

    def forget_words(self):
        for process in self.all:
            process.forget_words()

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.all)

    def pause(self):
        for process in self.all:
            process.pause()

    def resume(self):
        for process in reversed(self.all):
            process.resume()

    def end(self):
        for process in self.all:
            process.end()

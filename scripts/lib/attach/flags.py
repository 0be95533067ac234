"""Flag values: each reader takes the text of a flag and returns its value, or raises ArgumentTypeError with what is wrong and
what to write instead; argparse puts the flag's name in front."""

import argparse
import hashlib
import re

from ..common import Parser

EXAMPLES = """\
  scripts/kubernetes-manifests --gateway eg --listener routed --route chat \\
      --module-url https://example.com/warmpath.wasm --module target/warmpath.wasm > warmpath.yaml
  kubectl apply -f warmpath.yaml
  scripts/kubernetes-manifests --gateway eg --listener routed --route chat --check
  kubectl delete -f warmpath.yaml

It asks the cluster of the current kubectl context what stands on the route already, so that nothing of it is lost, and
changes nothing there. Without a cluster: --offline, with the listener's --port.
docs/envoy-gateway.md explains each policy.
"""

# A worker's VM holds whole bodies and what is read out of them, and has 1 GiB.
MOST_BODY_MIB = 128
# The versions of Envoy Gateway whose names and fields are known here.
OLDEST, NEWEST = (1, 6), (1, 10)


def wrong(text):
    return argparse.ArgumentTypeError(text)


def name(text):
    """A Kubernetes name."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", text):
        raise wrong(f"'{text}' is no Kubernetes name; write small letters, digits, '-' and '.'")
    return text


def pool(text):
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise wrong(f"'{text}' is not a pool name; write 1 to 64 letters, digits, '-', '_' or '.'")
    return text


def label(text):
    """KEY=VALUE, as (key, value)."""
    match = re.fullmatch(r"((?:[a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)=([A-Za-z0-9._-]*)", text)
    if not match:
        raise wrong(f"'{text}' is no label; write KEY=VALUE, like pool=vllm")
    return match[1], match[3]


def whole(least, most, unit=""):
    """A reader of whole numbers from `least` to `most`."""

    def read(text):
        if not re.fullmatch(r"[0-9]+", text) or not least <= int(text) <= most:
            raise wrong(f"'{text}' is not a whole number{unit} from {least} to {most}")
        return int(text)

    return read


def duration(text):
    """A time as Kubernetes writes it: 300s, 15m, 1h; 0s is none."""
    if not re.fullmatch(r"[0-9]+(ms|s|m|h)", text):
        raise wrong(f"'{text}' is not a time; write a number and its unit, like 500ms, 30s, 15m or 1h")
    return text


def sha256(text):
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise wrong(f"'{text}' is no SHA-256; write the 64 small hex digits that sha256sum prints")
    return text


def module_file(text):
    """A module of this machine; its SHA-256."""
    try:
        with open(text, "rb") as file:
            code = file.read()
    except OSError as error:
        raise wrong(f"cannot read '{text}': {error.strerror}; scripts/build makes target/warmpath.wasm") from None
    if not code.startswith(b"\0asm"):
        raise wrong(f"'{text}' is no WebAssembly module; scripts/build makes target/warmpath.wasm")
    return hashlib.sha256(code).hexdigest()


def url(text):
    if not re.fullmatch(r"https?://[^\s\"'\\]+", text):
        raise wrong(f"'{text}' is no URL; write http://HOST/PATH or https://HOST/PATH")
    return text


def image(text):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", text) or "/" not in text:
        raise wrong(f"'{text}' is no image; write REGISTRY/NAME:TAG")
    return text


def version(text):
    match = re.fullmatch(r"v?([0-9]+)\.([0-9]+)(\.[0-9]+)?", text)
    if not match or not OLDEST <= (int(match[1]), int(match[2])) <= NEWEST:
        raise wrong(
            f"'{text}' is no version of Envoy Gateway from {shown(OLDEST)} to {shown(NEWEST)}; write it like 1.9"
        )
    return int(match[1]), int(match[2])


def shown(version):
    return f"{version[0]}.{version[1]}"


def parse(description):
    parser = Parser(description, EXAMPLES)

    def group(title):
        add = parser.add_argument_group(title).add_argument

        def flag(flag_name, read, default, help, metavar, **more):
            shown = help if default is None else f"{help} (default {default})"
            add(flag_name, type=read, default=default, help=shown.replace("%", "%%"), metavar=metavar, **more)

        return add, flag

    add, flag = group("where")
    flag("--gateway", name, None, "the Gateway", "NAME", required=True)
    flag("--listener", name, None, "its listener that Warmpath routes; once for each", "NAME", action="append")
    flag("--route", name, None, "an HTTPRoute to attach to; once for each", "NAME", action="append")
    flag("--selector", label, None, "instead of --route: all HTTPRoutes with this label", "KEY=VALUE")
    flag("--namespace", name, "default", "the namespace of the Gateway and the routes", "NAME")
    flag("--name", name, "warmpath", "the name of the policies", "NAME")

    add, flag = group("the module")
    flag("--module-url", url, None, "where Envoy Gateway downloads it", "URL")
    flag("--module-image", image, None, "or the OCI image that holds it", "IMAGE")
    flag("--sha256", sha256, None, "the module's checksum; for an image, its digest", "HEX")
    flag("--module", module_file, None, "instead of --sha256: the module as a file, to take its checksum", "FILE")

    add, flag = group("how it routes")
    flag("--pool", pool, "default", "a name for the pods, in logs and statistics", "NAME")
    add(
        "--strategy",
        choices=["PREFIX_CACHE", "LOAD_ONLY"],
        default="PREFIX_CACHE",
        help="PREFIX_CACHE: load, and what each pod's KV cache holds; LOAD_ONLY: load alone (default PREFIX_CACHE)",
    )
    add(
        "--fail-closed",
        action="store_true",
        help="answer 503 with Retry-After while no pod is known, instead of letting Envoy choose one",
    )
    flag("--max-body-mib", whole(1, MOST_BODY_MIB, " of MiB"), "32", "the largest request body; more gets 413", "N")
    flag("--max-requests", whole(1, 1000000), "10000", "requests under way to the pods of a route; more get 503", "N")
    flag("--request-timeout", duration, "0s", "how long a request may take; 0s sets no limit", "TIME")
    flag("--drain-time", duration, "900s", "how long streams may go on after the listener changes", "TIME")
    flag("--scrape-ms", whole(10, 60000, " of milliseconds"), "100", "how often each pod's load is read", "N")
    flag("--index-mib", whole(1, 512, " of MiB"), "48", "memory a worker may use to remember who holds what", "N")

    add(
        "--collector",
        choices=["routers", "singleton"],
        default="routers",
        help="who reads the pods' load: a worker that is also serving requests, or with `singleton` Envoy's main thread alone. "
        "That one needs the module as a file in Envoy's pods: a ConfigMap, at most 1 MiB, and new Envoy pods for each new "
        "module (default routers)",
    )
    add(
        "--pages",
        action="store_true",
        help="two pages in each of Envoy's pods: Warmpath's metrics of each pod and model for Prometheus (port 9902, /metrics), and "
        "the console (port 9903, for `kubectl port-forward`). From the module as a file, as with --collector singleton",
    )
    add(
        "--answer-filter",
        action="store_true",
        help="hold the headers of a stream until its first token, so that a pod that fails before it costs the client nothing. "
        "Only with --collector singleton, whose file it runs, and for rules that are there when this is printed",
    )

    add, flag = group("the cluster")
    add(
        "--check",
        action="store_true",
        help="print nothing; say whether all of it is accepted and programmed, and what is missing",
    )
    add("--offline", action="store_true", help="do not ask the cluster; nothing else may stand on the route")
    flag("--context", str, None, "the context of kubectl; $KUBECTL names another program", "NAME")
    flag("--port", whole(1, 65535), None, "with --offline: the listener's port", "N")
    flag("--envoy-gateway", version, "1.9", "with --offline: the version of Envoy Gateway", "VERSION")
    flag(
        "--merged-class",
        name,
        None,
        "with --offline: the GatewayClass whose Gateways share one Envoy (mergeGateways)",
        "NAME",
    )
    add("--http3", action="store_true", help="with --offline: the listener serves HTTP/3 too")
    options = parser.parse_args()
    consistent(parser, options)
    options.sha256 = options.module or options.sha256
    return options


def consistent(parser, options):
    """Stops where flags contradict each other, or one is missing."""
    if bool(options.route) == bool(options.selector):
        parser.error("name the routes: either --route NAME, once for each, or --selector KEY=VALUE")
    if options.check:
        return
    if options.answer_filter and options.collector != "singleton":
        parser.error(
            "--answer-filter needs --collector singleton: Envoy runs it from the module's file, which that brings"
        )
    if options.answer_filter and options.offline and options.selector:
        parser.error("--answer-filter patches the cluster of each rule; with --offline name the routes with --route")
    if bool(options.module_url) == bool(options.module_image):
        parser.error("say where the module is: either --module-url URL or --module-image IMAGE")
    if bool(options.module) == bool(options.sha256):
        parser.error(
            "give the module's checksum: either --sha256 HEX or --module FILE. Without it Envoy would go on with the old "
            "module when a new one is there"
        )
    if options.offline and not (options.listener and options.port):
        parser.error(
            "--offline needs --listener and --port: the listener has another name in Envoy from Envoy Gateway 1.10 on"
        )
    if options.offline and len(options.listener) > 1:
        parser.error("--offline takes one --listener: only the cluster knows the port of each")
    if not options.offline:
        for flag in ("port", "merged_class", "http3"):
            if getattr(options, flag):
                parser.error(f"--{flag.replace('_', '-')} is for --offline; the cluster is asked instead")

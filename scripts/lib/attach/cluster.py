"""What the cluster says: of the Gateway, its routes, and the policies that stand near them already. Reads, and changes nothing."""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from functools import cached_property

from ..common import Failure

GATEWAY_API = "gateway.networking.k8s.io"
ENVOY_GATEWAY = "gateway.envoyproxy.io"

# The kinds that are looked at, by the plural that kubectl takes.
PLURALS = {
    "Gateway": f"gateways.{GATEWAY_API}",
    "HTTPRoute": f"httproutes.{GATEWAY_API}",
    "EnvoyPatchPolicy": f"envoypatchpolicies.{ENVOY_GATEWAY}",
    "EnvoyExtensionPolicy": f"envoyextensionpolicies.{ENVOY_GATEWAY}",
    "BackendTrafficPolicy": f"backendtrafficpolicies.{ENVOY_GATEWAY}",
    "ClientTrafficPolicy": f"clienttrafficpolicies.{ENVOY_GATEWAY}",
    "EndpointSlice": "endpointslices.discovery.k8s.io",
}
# What stands above: whoever attaches to a Gateway may have no right to read it.
ABOVE = {"GatewayClass": f"gatewayclasses.{GATEWAY_API}", "EnvoyProxy": f"envoyproxies.{ENVOY_GATEWAY}"}


@dataclass
class Listener:
    """A listener of the Gateway: `first` is the first one of the same port, whose name all of them have in Envoy."""

    name: str
    first: str
    port: int
    http3: bool


@dataclass
class Facts:
    """`gateway` and `proxy` (the EnvoyProxy in force) are objects, or None where nothing is known of them; `objects` holds, by
    kind, what stands in the namespace; `unknown` has a sentence for what could not be read."""

    listeners: list
    ask_merges_extensions: object
    merged_class: str = None
    gateway: dict = None
    proxy: dict = None
    objects: dict = field(default_factory=dict)
    routes: list = field(default_factory=list)
    unknown: list = field(default_factory=list)

    @cached_property
    def merges_extensions(self):
        """Whether an EnvoyExtensionPolicy can merge with the one above it: asked for where it matters alone, as it is dear."""
        return self.ask_merges_extensions()

    def of(self, kind):
        return self.objects.get(kind, [])


def assume(options):
    """The facts of `--offline`: what the flags say, and nothing else in the cluster."""
    name = options.listener[0]
    return Facts(
        listeners=[Listener(name, name, options.port, options.http3)],
        ask_merges_extensions=lambda: options.envoy_gateway >= (1, 9),
        merged_class=options.merged_class,
    )


def kubectl(options, *words):
    """Runs kubectl: (exit code, standard output, standard error)."""
    program = shlex.split(os.environ.get("KUBECTL", "kubectl"))
    context = ["--context", options.context] if options.context else []
    try:
        done = subprocess.run([*program, *context, *words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(
            f"cannot ask the cluster with '{program[0]}' ({error}); name kubectl in $KUBECTL, or print with --offline"
        ) from None
    return done.returncode, done.stdout, done.stderr.strip()


def get(options, *words):
    """The objects that `kubectl get` lists, or one of them; None with its complaint where it fails."""
    code, out, complaint = kubectl(options, "get", *words, "-o", "json")
    return (json.loads(out), "") if code == 0 else (None, complaint)


def look(options):
    """The facts of the live cluster. Stops where the Gateway or a route that was named is not there."""
    # One call where that is possible, as each takes its time.
    for plurals in ({**PLURALS, **ABOVE}, PLURALS):
        found, complaint = get(options, ",".join(plurals.values()), "--namespace", options.namespace)
        if found is not None:
            break
    else:
        raise Failure(f"cannot read the cluster: {complaint.splitlines()[-1] if complaint else 'kubectl said nothing'}")
    objects = {}
    for each in found["items"]:
        objects.setdefault(each["kind"], []).append(each)
    gateway = one(objects, "Gateway", options.gateway, options.namespace)
    facts = Facts(
        listeners=[],
        ask_merges_extensions=lambda: has_merge_type(options),
        gateway=gateway,
        objects=objects,
        routes=routes(options, objects),
    )
    facts.listeners = listeners(options, facts)
    proxy_of(options, facts)
    return facts


def has_merge_type(options):
    """Whether the definition of EnvoyExtensionPolicy has the field."""
    field_of = f"{PLURALS['EnvoyExtensionPolicy'].split('.')[0]}.spec.mergeType"
    code, _, complaint = kubectl(options, "explain", field_of, f"--api-version={ENVOY_GATEWAY}/v1alpha1")
    if code and "does not exist" not in complaint:
        raise Failure(f"cannot read the definition of EnvoyExtensionPolicy: {complaint.strip()}; try again")
    return code == 0


def one(objects, kind, name, namespace):
    for each in objects.get(kind, []):
        if each["metadata"]["name"] == name:
            return each
    there = ", ".join(each["metadata"]["name"] for each in objects.get(kind, [])) or "none"
    raise Failure(f"there is no {kind} {namespace}/{name}; there: {there}")


def routes(options, objects):
    """The HTTPRoutes that the flags mean."""
    if options.route:
        return [one(objects, "HTTPRoute", name, options.namespace) for name in options.route]
    key, value = options.selector
    found = [each for each in objects.get("HTTPRoute", []) if each["metadata"].get("labels", {}).get(key) == value]
    if not found:
        raise Failure(f"no HTTPRoute in namespace {options.namespace} has the label {key}={value}")
    return found


def listeners(options, facts):
    """The Gateway's listeners that the routes attach to, or those that the flags name."""
    every = [each for each in facts.gateway["spec"]["listeners"] if each["protocol"] in ("HTTP", "HTTPS")]
    names = options.listener or [
        each["name"]
        for each in every
        if any(
            parent.get("sectionName", each["name"]) == each["name"]
            for route in facts.routes
            for parent in parents_of(route, options)
        )
    ]
    found = []
    for name in names:
        mine = next((each for each in every if each["name"] == name), None)
        if mine is None:
            raise Failure(
                f"Gateway {options.gateway} has no HTTP listener '{name}'; there: {', '.join(each['name'] for each in every)}"
            )
        first = next(each["name"] for each in every if each["port"] == mine["port"])
        # QUIC has TLS always: beside a listener without, there is no second one.
        http3 = mine["protocol"] == "HTTPS" and any(
            "http3" in each["spec"] for each in above(facts, "ClientTrafficPolicy", [name])
        )
        found.append(Listener(name, first, mine["port"], http3))
    if not found:
        raise Failure(f"no route attaches to an HTTP listener of Gateway {options.gateway}; name one with --listener")
    return found


def parents_of(route, options):
    """The references of a route to our Gateway."""
    for parent in route["spec"].get("parentRefs", []):
        if parent["name"] == options.gateway and parent.get("namespace", options.namespace) == options.namespace:
            yield parent


def targets(policy):
    """What a policy aims at: its references, old form and new, and its selectors."""
    spec = policy["spec"]
    return [*spec.get("targetRefs", []), *([spec["targetRef"]] if "targetRef" in spec else [])], spec.get(
        "targetSelectors", []
    )


def aims(policy, kind, there, sections=None):
    """Whether a policy aims at an object of this kind; with `sections`, at the whole of it or one of these sections."""
    references, selectors = targets(policy)
    for each in references:
        named = each["kind"] == kind and each["name"] == there["metadata"]["name"]
        if named and (sections is None or "sectionName" not in each or each["sectionName"] in sections):
            return True
    labels = there["metadata"].get("labels", {})
    return any(
        each["kind"] == kind
        and each.get("matchLabels")
        and all(labels.get(k) == v for k, v in each["matchLabels"].items())
        for each in selectors
    )


def above(facts, kind, names):
    """The policies of a kind on the Gateway, or on one of these listeners of it."""
    return [each for each in facts.of(kind) if aims(each, "Gateway", facts.gateway, names)]


def beside(facts, kind, own):
    """The policies of a kind on one of the routes, or on a rule of one, that are not our own: (policy, route)."""
    return [
        (each, route)
        for each in facts.of(kind)
        if each["metadata"]["name"] != own
        for route in facts.routes
        if aims(each, "HTTPRoute", route)
    ]


def read(options, facts, kind, name, namespace=None):
    """An object that stands above, or None with a complaint: one that was listed already, else asked for."""
    for each in facts.of(kind):
        if each["metadata"]["name"] == name and namespace in (None, each["metadata"].get("namespace")):
            return each, ""
    where = ["--namespace", namespace] if namespace else []
    return get(options, ABOVE[kind], name, *where)


def proxy_of(options, facts):
    """Finds the EnvoyProxy in force, the Gateway's own before its class's, and whether Gateways are merged."""
    class_name = facts.gateway["spec"]["gatewayClassName"]
    gateway_class, complaint = read(options, facts, "GatewayClass", class_name)
    if gateway_class is None:
        facts.unknown.append(f"GatewayClass {class_name} cannot be read, nor its EnvoyProxy ({complaint})")
    found = {}
    for whose, reference in (
        ("class", (gateway_class or {}).get("spec", {}).get("parametersRef")),
        ("gateway", facts.gateway["spec"].get("infrastructure", {}).get("parametersRef")),
    ):
        if not reference or reference.get("kind") != "EnvoyProxy":
            continue
        namespace = reference.get("namespace", options.namespace)
        found[whose], complaint = read(options, facts, "EnvoyProxy", reference["name"], namespace)
        if found[whose] is None:
            facts.unknown.append(f"EnvoyProxy {namespace}/{reference['name']} cannot be read ({complaint})")
    facts.proxy = found.get("gateway") or found.get("class")
    # Only a class can merge its Gateways; they have one Envoy then, and a patch names the class.
    if (found.get("class") or {}).get("spec", {}).get("mergeGateways"):
        facts.merged_class = class_name

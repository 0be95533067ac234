"""Why the policies are not printed: each reason is one sentence that names what would be lost, or cannot work, and the way out."""

from . import in_process
from .cluster import above, beside, parents_of

# Lists of a policy do not merge: the route's own replaces the one above it.
LISTS = {"EnvoyExtensionPolicy": "wasm"}


def full(thing):
    return f"{thing['kind']} {thing['metadata']['namespace']}/{thing['metadata']['name']}"


def of(options, facts):
    """The sentences; none if the policies can be printed."""
    return [*lost(options, facts), *blind(options, facts), *without_file(options, facts)] if facts.gateway else []


def lost(options, facts):
    """Policies that would lose their effect on the routes by ours."""
    names = [each.name for each in facts.listeners]
    for each in above(facts, "EnvoyExtensionPolicy", names):
        if not facts.merges_extensions:
            yield (
                f"{full(each)} would be lost on the routes: this Envoy Gateway cannot merge a route's EnvoyExtensionPolicy with "
                f"the Gateway's; upgrade to 1.9, or move its filters to a policy of another kind"
            )
        elif each["spec"].get("wasm"):
            yield (
                f"{full(each)} would lose its Wasm filters on the routes: a merge replaces the list of them; add them to the "
                f"printed EnvoyExtensionPolicy by hand after Warmpath's, and give the Gateway's policy no wasm list"
            )
    for kind in ("EnvoyExtensionPolicy", "BackendTrafficPolicy"):
        for each, route in beside(facts, kind, options.name):
            yield (
                f"{full(each)} stands on HTTPRoute {route['metadata']['name']} already, and Envoy Gateway takes one {kind} a "
                f"route: one of the two would be lost; move its settings to the Gateway, with which the printed policy merges"
            )


def blind(options, facts):
    """Why Warmpath could not see or reach the pods."""
    proxy = (facts.proxy or {}).get("spec", {})
    by_service = [facts.proxy] if proxy.get("routingType") == "Service" else []
    names = [each.name for each in facts.listeners]
    by_service += [
        each for each in above(facts, "BackendTrafficPolicy", names) if each["spec"].get("routingType") == "Service"
    ]
    for each in by_service:
        yield (
            f"{full(each)} has routingType Service, so Envoy knows the Service's one address and not the pods': traffic flows, "
            f"and Warmpath cannot choose; set routingType: Endpoint"
        )
    if proxy.get("telemetry", {}).get("metrics", {}).get("prometheus", {}).get("disable"):
        yield (
            f"{full(facts.proxy)} disables Prometheus, and with it the cluster prometheus_stats through which Warmpath finds "
            f"the pods; enable telemetry.metrics.prometheus"
        )
    for route in facts.routes:
        if not list(parents_of(route, options)):
            yield f"{full(route)} does not attach to Gateway {options.gateway}: its parentRefs do not name it"
        for rule in route["spec"].get("rules", []):
            for backend in rule.get("backendRefs", []):
                if backend.get("kind", "Service") != "Service":
                    yield (
                        f"{full(route)} sends to {backend['kind']} {backend['name']}: these policies are for Services; "
                        f"an InferencePool is served by warmpath-controller"
                    )


def without_file(options, facts):
    """A cluster whose filter of answers has no module is refused by Envoy."""
    container = (facts.proxy or {}).get("spec", {}).get("provider", {}).get("kubernetes", {})
    mounts = container.get("envoyDeployment", {}).get("container", {}).get("volumeMounts", [])
    if options.answer_filter and not any(each.get("mountPath") == in_process.FOLDER for each in mounts):
        yield (
            "Envoy's pods do not have the module as a file yet, and without it Envoy refuses the clusters of --answer-filter; "
            "first apply what --collector singleton alone prints, and let the Gateway name its EnvoyProxy"
        )


def notes(options, facts):
    """What does not stop the policies and should be known: sentences."""
    families = {}
    for each in facts.of("EndpointSlice"):
        service = each["metadata"].get("labels", {}).get("kubernetes.io/service-name")
        if each.get("endpoints"):
            families.setdefault(service, set()).add(each["addressType"])
    used = {
        backend["name"]
        for route in facts.routes
        for rule in route["spec"].get("rules", [])
        for backend in rule.get("backendRefs", [])
        if backend.get("kind", "Service") == "Service"
    }
    for name in sorted(used):
        if families.get(name, set()) >= {"IPv4", "IPv6"}:
            yield (
                f"Service {options.namespace}/{name} is dual stack, and Envoy Gateway hands over each pod twice, once an address "
                f"family: to Warmpath these are two pods; give the Service ipFamilyPolicy: SingleStack"
            )
    yield from facts.unknown

"""`--check`: whether each policy is there, accepted and programmed, and in one sentence each what is missing."""

import json

from .cluster import above, parents_of
from .policies import DECISION
from .refusals import blind, full, lost, notes, without_file

# Conditions of a policy that take its effect away, or part of it.
SPOILING = ("Conflicted", "Overridden")


def run(options, facts):
    """Prints a line for each thing; returns the exit code."""
    good, missing = [], []
    for judge in (gateway, routes, patches, answers, policies, proxy):
        judge(options, facts, good, missing)
    missing += [
        *lost(options, facts),
        *blind(options, facts),
        *without_file(options, facts),
        *notes(options, facts),
    ]
    for sentence in good:
        print(f"ok       {sentence}")
    for sentence in missing:
        print(f"MISSING  {sentence}")
    print("all there" if not missing else f"{len(missing)} missing")
    return 1 if missing else 0


def condition(conditions, kind):
    """A condition as (status, reason, message)."""
    for each in conditions:
        if each["type"] == kind:
            return each["status"], each.get("reason", ""), each.get("message", "").strip()
    return "Unknown", "", "Envoy Gateway has not said"


def gateway(options, facts, good, missing):
    status, reason, message = condition(facts.gateway.get("status", {}).get("conditions", []), "Accepted")
    if status != "True":
        missing.append(f"{full(facts.gateway)} is not accepted ({reason}: {message})")
    else:
        good.append(f"{full(facts.gateway)} is accepted")


def routes(options, facts, good, missing):
    for route in facts.routes:
        wanted = len(list(parents_of(route, options)))
        statuses = [
            each for each in route.get("status", {}).get("parents", []) if each["parentRef"]["name"] == options.gateway
        ]
        bad = [
            f"{kind} is {status} ({reason}: {message})"
            for each in statuses
            for kind in ("Accepted", "ResolvedRefs")
            for status, reason, message in [condition(each.get("conditions", []), kind)]
            if status != "True"
        ]
        if wanted and not statuses:
            missing.append(
                f"{full(route)} has no status for Gateway {options.gateway}: Envoy Gateway does not run, or does not see it"
            )
        elif bad:
            missing.append(f"{full(route)}: {'; '.join(bad)}")
        elif wanted:
            good.append(f"{full(route)} is accepted, and its backends are there")


def mine(options, facts, kind, name):
    return next((each for each in facts.of(kind) if each["metadata"]["name"] == name), None)


def conditions(policy):
    return [
        each for ancestor in policy.get("status", {}).get("ancestors", []) for each in ancestor.get("conditions", [])
    ]


def patches(options, facts, good, missing):
    """Of the two names of a listener one is not there, so one of the two policies is programmed."""
    programmed, words = [], []
    for name in (options.name, f"{options.name}-by-port"):
        policy = mine(options, facts, "EnvoyPatchPolicy", name)
        if policy is None:
            missing.append(
                f"EnvoyPatchPolicy {options.namespace}/{name} is not there: apply what scripts/kubernetes-manifests prints"
            )
            continue
        accepted, programs = condition(conditions(policy), "Accepted"), condition(conditions(policy), "Programmed")
        if accepted[1] == "Disabled" or programs[1] == "Disabled":
            missing.append(
                f"{full(policy)} has no effect: set extensionApis.enableEnvoyPatchPolicy: true in Envoy Gateway's configuration"
            )
            return
        if accepted[0] != "True":
            missing.append(f"{full(policy)} is not accepted ({accepted[1]}: {accepted[2]})")
        elif programs[0] == "True":
            programmed.append(full(policy))
        else:
            words.append((programs[1], f"{full(policy)}: {programs[1]}: {programs[2]}"))
    # A name that is not there is expected of one of the two, and of no more.
    real = [text for reason, text in words if reason != "ResourceNotFound"]
    if programmed:
        good.append(f"{programmed[0]} is accepted and programmed")
    elif real:
        missing.append(
            f"the filter is not patched, and requests go unrouted ({real[0]}); is the module's server reachable?"
        )
    elif len(words) == 2:
        missing.append(
            f"no listener has the names that the patches use, and requests go unrouted ({words[0][1]}); print the manifests again "
            f"for this Gateway's listeners"
        )


def answers(options, facts, good, missing):
    """The filter of answers, where it is asked for: every cluster has it."""
    if not options.answer_filter:
        return
    name = f"{options.name}-answer"
    policy = mine(options, facts, "EnvoyPatchPolicy", name)
    status, reason, message = condition(conditions(policy or {}), "Programmed")
    if status == "True":
        good.append(f"{full(policy)} is programmed")
    else:
        missing.append(
            f"EnvoyPatchPolicy {options.namespace}/{name} is not programmed ({reason}: {message}); print again"
        )


def policies(options, facts, good, missing):
    for kind in ("EnvoyExtensionPolicy", "BackendTrafficPolicy"):
        policy = mine(options, facts, kind, options.name)
        if policy is None:
            missing.append(
                f"{kind} {options.namespace}/{options.name} is not there: apply what scripts/kubernetes-manifests prints"
            )
            continue
        found = conditions(policy)
        status, reason, message = condition(found, "Accepted")
        spoilt = [
            (each["type"], each.get("message", ""))
            for each in found
            if each["type"] in SPOILING and each["status"] == "True"
        ]
        if status != "True":
            missing.append(f"{full(policy)} is not accepted ({reason}: {message})")
        elif spoilt:
            missing.append(f"{full(policy)} is {spoilt[0][0].lower()} by another policy ({spoilt[0][1]})")
        elif (
            kind in ("EnvoyExtensionPolicy", "BackendTrafficPolicy")
            and "mergeType" not in policy["spec"]
            and above(facts, kind, [each.name for each in facts.listeners])
        ):
            over = above(facts, kind, [each.name for each in facts.listeners])[0]
            missing.append(f"{full(over)} has no effect on the routes: {full(policy)} lacks mergeType: StrategicMerge")
        else:
            good.append(f"{full(policy)} is accepted")


def proxy(options, facts, good, missing):
    """Only said: without these, routing works, long streams end at an update, and the access log does not say why."""
    spec = (facts.proxy or {}).get("spec", {})
    if facts.unknown:
        return
    if "drainTimeout" not in spec.get("shutdown", {}):
        good.append(
            "the Gateway's EnvoyProxy sets no shutdown.drainTimeout: streams longer than 60 s are cut when module or settings change"
        )
    else:
        good.append(
            f"{full(facts.proxy)} lets streams go on for {spec['shutdown']['drainTimeout']} when the listener changes"
        )
    if DECISION in json.dumps(spec.get("telemetry", {}).get("accessLog", {})):
        good.append(f"{full(facts.proxy)} has the access log say why a request went to its pod")
    else:
        good.append(
            f"the Gateway's EnvoyProxy has no {DECISION} in telemetry.accessLog: no log says why a request went to its pod"
        )

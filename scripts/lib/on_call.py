"""The five questions of whoever is on call, answered by the queries that docs/operations.md prints, while four pods are sick."""

import json
import re
import uuid

from . import gateway, talk
from .client import ask
from .common import ROOT, Failure
from .processes import wait_for
from .world import MODEL

PAGE = ROOT / "docs" / "operations.md"
SECTIONS = ("Where to look", "Is it faster than plain routing")
# How long it may take until the console shows a request that was just sent.
SHOWN_SECONDS = 30
# What a pod may be believed to hold, as a share of what it reports as its cache: a little more than all of it (`believed_capacity`).
MOST = 1.1


def printed():
    """The queries of the two sections about the questions, in their order: code spans and blocks that name a metric."""
    text = PAGE.read_text()
    found = []
    for title in SECTIONS:
        section = re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
        if not section:
            raise Failure(f"docs/operations.md has no section {title!r}")
        blocks = re.findall(r"^```\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
        found += [*re.findall(r"`([^`\n]*\bwarmpath_[^`\n]*)`", section[1]), *blocks]
    return found


def one(queries, *words):
    """The printed query that has all of these words."""
    found = [query for query in queries if all(word in query for word in words)]
    if len(found) != 1:
        raise Failure(f"docs/operations.md has {len(found)} queries with {', '.join(words)}, and not one")
    return found[0]


def answers(world, pods):
    """Asks all that the page prints, and yields a line for each question; fails where there is no answer, or a wrong one.
    `pods` has the states that each pod may tell of itself, by address: none of a slow one, and None of one that is well."""
    queries = printed()
    found = {query: world.prometheus.query(query) for query in queries}
    if empty := [query for query, result in found.items() if not any(number == number for _, number in result)]:
        raise Failure("these queries of docs/operations.md return nothing:\n  " + "\n  ".join(empty))

    def numbers(label, *words):
        return {labels.get(label): number for labels, number in found[one(queries, *words)] if number == number}

    (gain,) = numbers("pool", 'route="plain"', "/ on (pool)").values()
    yield f"first tokens come {gain:.2f} times as fast as in the plain samples"

    sick = {labels["pod"]: labels["status"] for labels, _ in found[one(queries, "pod_status")]}
    waits = numbers("pod", "pod_first_token_seconds_total", "pod_first_tokens_total")
    slowest = max(waits, key=waits.get)
    wrong = {pod: sick.get(pod) for pod, expected in pods.items() if expected and sick.get(pod) not in expected}
    strange = set(sick) - {pod for pod, expected in pods.items() if expected}
    slow = next(pod for pod, expected in pods.items() if expected == ())
    if wrong or strange or slowest != slow:
        raise Failure(f"the sick pods are told as {sick}, the slowest as {slowest}; they are {pods}")
    yield "sick: " + ", ".join(f"{pod} {status}" for pod, status in sorted(sick.items()))
    yield f"slow: {slowest}, whose first tokens take {waits[slowest]:.2f} s; the others' {sorted(waits.values())[0]:.2f} s"

    yield why_there(world)

    believed, real = numbers("model", "matched_tokens_sum"), numbers("model", 'kind="cached"', 'kind="prompt"')
    if set(believed) != set(real) or not all(0 < share <= 1 for share in [*believed.values(), *real.values()]):
        raise Failure(f"hit rates: believed {believed}, real {real}")
    for model, share in believed.items():
        yield f"hit rate of {model}: {share:.0%} believed, {real[model]:.0%} real"

    (index,) = numbers("pool", "index_bytes").values()
    caches = numbers("pod", "held_tokens")
    if not 0 < index < 1 or not all(0 <= share <= MOST for share in caches.values()) or max(caches.values()) == 0:
        raise Failure(f"the index is {index} full, caches {caches}")
    yield f"the index is {index:.2%} full, the caches {min(caches.values()):.0%} to {max(caches.values()):.0%}"


def why_there(world):
    """Sends conversations of two rounds while the console is looked at, and reads there and in the access log why a second round
    went to its pod."""

    def decided():
        """A second round that was answered, and what the console shows of it: it does from soon after somebody looks."""
        name = f"why-{uuid.uuid4().hex[:6]}"
        try:
            talk.conversation(world.envoy.port, MODEL, name, rounds=2, words=900)
        except talk.Refused:
            return None
        status, body = ask(world.console_port, path="/console.json")
        decisions = json.loads(body)["decisions"] if status == 200 else []
        return next((decision for decision in decisions if decision["id"] == f"demo-{name}-1"), None)

    shown = wait_for("the console to show a request", decided, SHOWN_SECONDS)
    line = world.envoy.access_line(shown["id"])
    if (line["chosen"], gateway.record(line)["reason"]) != (shown["pod"], shown["reason"]):
        raise Failure(f"the access log says {line}, the console {shown}")
    costs = sorted((pod["cost"] / 1e6, pod["pod"]) for pod in shown["pods"])
    if len(costs) < 2 or line["chosen"] not in [pod for _, pod in costs]:
        raise Failure(f"the console shows the costs {costs}, and the request went to {line['chosen']}")
    of_pods = ", ".join(f"{pod} {cost:.3f} s" for cost, pod in costs)
    return f"{shown['id']} went to {line['chosen']} ({line['decision']}); it would cost {of_pods}"

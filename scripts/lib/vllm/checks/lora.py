"""Adapters, and the settings of a pool that rename and refuse models."""

from ...common import Failure
from ...processes import wait_for
from ..modes import PAIR, check
from ..pods import MODEL
from ..requests import CHAT, Conversation, chat_body, fresh, send
from .chats import must_be_cached


@check(PAIR, "B11")
def adapters(world):
    """Requests for an adapter that one pod has go there and are answered; those for one that both have, and for the model, too.
    A prompt that was computed for one model is no prefix of another."""
    envoy, only = world.gateway(), world.pods[0]
    for stream in (True, False):
        for nth in range(10):
            answer = send(envoy.port, CHAT, chat_body("b", fresh(40), stream=stream)).must_be_well()
            if envoy.pod_of(answer) != only.address:
                raise Failure(f"request {nth + 1} for b was answered by {envoy.pod_of(answer)}")
    moved = sum(line["attempts"] > 1 for line in envoy.lines())
    text = fresh(500)
    cached = {}
    for model in (MODEL, "a", "b"):
        first = send(envoy.port, CHAT, chat_body(model, text)).must_be_well()
        again = send(envoy.port, CHAT, chat_body(model, text)).must_be_well()
        if first.usage()[1] or envoy.believed(first)[0]:
            raise Failure(
                f"the first prompt for {model} had {first.usage()[1]} tokens cached, {envoy.believed(first)} believed"
            )
        cached[model] = must_be_cached(again, first.usage()[0], f"the second prompt for {model}")
    if moved > 6:
        raise Failure(f"{moved} of 20 requests for b asked the pod that does not have it first")
    return f"20 of 20 for b at its pod, {moved} of them after a refusal; cached in second prompts: {cached}"


@check(PAIR)
def adapter_conversations(world):
    """Conversations with adapters and with the model stay warm side by side."""
    envoy = world.gateway()
    talks = [Conversation(model, words=300) for model in (MODEL, "a", "b") for _ in range(2)]
    last = {}
    for nth in range(3):
        for talk in talks:
            answer = talk.round(envoy.port)
            pod = envoy.pod_of(answer)
            if nth:
                known, before = last[id(talk)]
                if pod != before:
                    raise Failure(f"a conversation with {talk.model} went from {before} to {pod}")
                must_be_cached(answer, known, f"round {nth + 1} with {talk.model}")
            last[id(talk)] = answer.usage()[0], pod
    return f"{len(talks)} conversations of 3 rounds, each on one pod"


SETTINGS = {
    "models": [
        {"name": "chat", "targets": [{"name": "a", "weight": 75}, {"name": "b", "weight": 25}]},
        {"name": "batch", "criticality": "Sheddable", "targets": [{"name": "b"}]},
        {"name": "reserved", "targets": [{"name": "a", "weight": 0}]},
    ],
    "unknown_models": "refuse",
    "list_models": True,
    "restore_model_names": True,
}
# So many that none of the lesser target would be a wonder: 0.75 to the power of 60.
CONVERSATIONS = 60


@check(PAIR)
def pool_settings(world):
    """With --pool-settings: names become adapters by weight, a conversation keeps its adapter, answers have the client's name,
    reserved and unknown names get 404, and GET /v1/models lists what clients may ask for."""
    envoy = world.gateway(f"--pool-settings={world.file('pool-settings.json', SETTINGS)}")
    for nth in range(CONVERSATIONS):
        talk = Conversation("chat", words=150, stream=nth % 2 == 0)
        first = talk.round(envoy.port)
        second = talk.round(envoy.port)
        must_be_cached(second, first.usage()[0], f"round 2 of conversation {nth + 1}")
        for answer in (first, second):
            named = {event["model"] for event in (answer.events() if answer.streamed else [answer.json()])}
            if named != {"chat"}:
                raise Failure(f"the answer names {named}, and the client asked for chat")

    def served():
        """Requests by adapter, as Warmpath counts them once per second."""
        counts = {name: envoy.metric("warmpath_prompt_tokens_count", model=name) for name in ("a", "b")}
        return counts if sum(counts.values()) == 2 * CONVERSATIONS else None

    counts = wait_for("all requests to be counted by adapter", served)
    if min(counts.values()) == 0:
        raise Failure(f"adapters served {counts}")
    listed = {model["id"] for model in send(envoy.port, "/v1/models").must_be_well().json()["data"]}
    if listed != {"chat", "batch"}:
        raise Failure(f"GET /v1/models lists {sorted(listed)}")
    for name in ("reserved", "nobody", "a", MODEL):
        answer = send(envoy.port, CHAT, chat_body(name, "hi"))
        if answer.status != 404 or "error" not in answer.json():
            raise Failure(f"a request for {name} got {answer}")
    send(envoy.port, CHAT, chat_body("batch", "hi")).must_be_well()
    return f"{CONVERSATIONS} conversations kept their adapter; requests by adapter {counts}; listed {sorted(listed)}; four other names 404"


@check(PAIR)
def adapters_listed(world):
    """GET /v1/models answers as a pod does, and each adapter's name is one of a pod's."""
    envoy = world.gateway()
    names = {model["id"] for model in send(envoy.port, "/v1/models").must_be_well().json()["data"]}
    if not {MODEL, "a"} <= names:
        raise Failure(f"listed are {sorted(names)}")
    return f"listed: {', '.join(sorted(names))}"

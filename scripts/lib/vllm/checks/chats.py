"""Conversations, with all APIs."""

import statistics

from ...common import ROOT, Failure
from ...processes import wait_for
from ..modes import PAIR, check
from ..pods import MODEL, OTHER_NAME
from ..requests import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Conversation, chat_body, fresh, send

# vLLM's blocks on a CPU: what is cached is a multiple of it.
BLOCK = 128
CASES = ROOT / "tests" / "fixtures" / "cases"


def must_be_cached(answer, of, what):
    """Fails unless all whole blocks of a prompt of so many tokens came from the cache."""
    prompt, cached = answer.usage()
    # The last block may hold the end of the earlier prompt and the beginning of what was said.
    if cached < of - 2 * BLOCK:
        raise Failure(f"{what}: {cached} of {prompt} prompt tokens were cached, and at least {of - 2 * BLOCK} could be")
    return cached


def rounds(envoy, stream):
    """Conversations of three rounds, one after the other; seconds of the first rounds and of the later ones."""
    first, later = [], []
    for _ in range(3):
        talk, pods, known = Conversation(MODEL, stream=stream), [], 0
        for nth in range(3):
            answer = talk.round(envoy.port)
            pods.append(envoy.pod_of(answer))
            if nth:
                must_be_cached(answer, known, f"round {nth + 1}")
            known = answer.usage()[0]
            (later if nth else first).append(answer.first)
        if len(set(pods)) > 1:
            raise Failure(f"a conversation went to {pods}")
    return statistics.mean(first), statistics.mean(later)


@check(PAIR)
def streamed_chat(world):
    """Streamed chats of three rounds stay with their pod, and vLLM says that the earlier rounds were cached."""
    first, later = rounds(world.gateway(), True)
    return f"first token after {first:.2f} s in first rounds, {later:.2f} s in later ones"


@check(PAIR)
def whole_chat(world):
    """The same for chats that are not streamed."""
    first, later = rounds(world.gateway(), False)
    return f"answers after {first:.2f} s in first rounds, {later:.2f} s in later ones"


@check(PAIR)
def apis(world):
    """Each API that is routed by prefix, streamed and whole: the second request meets the cache of the first."""
    envoy, seen = world.gateway(), []
    for name, path, body in (
        ("chat", CHAT, lambda: chat_body(MODEL, fresh(), stream=False)),
        ("completions", COMPLETIONS, lambda: {"model": MODEL, "prompt": fresh(), "max_tokens": 4}),
        ("token ids", COMPLETIONS, lambda: {"model": MODEL, "prompt": tokens(world), "max_tokens": 4}),
        ("responses", RESPONSES, lambda: {"model": MODEL, "input": fresh(), "max_output_tokens": 4}),
        ("messages", MESSAGES, lambda: {"model": MODEL, "messages": [user(fresh())], "max_tokens": 4}),
    ):
        for stream in (False, True):
            request = {**body(), **({"stream": True} if stream else {})}
            if stream and path in (CHAT, COMPLETIONS):
                request["stream_options"] = {"include_usage": True}
            answers = [send(envoy.port, path, request).must_be_well() for _ in range(2)]
            first, second = (envoy.pod_of(answer) for answer in answers)
            if first != second:
                raise Failure(f"{name}{', streamed' if stream else ''}: {first}, then {second}")
            matched, of = envoy.believed(answers[1])
            if matched * 10 < of * 9:
                raise Failure(f"{name}: the pod is believed to hold {matched} of {of} tokens of the same prompt")
            prompt, cached = answers[1].usage()
            seen.append(f"{name}{' (stream)' if stream else ''} {cached}/{prompt}")
    return f"cached: {', '.join(seen)}"


def user(text):
    return {"role": "user", "content": text}


def tokens(world):
    """Token ids of a fresh prompt, as vLLM itself makes them."""
    return send(world.pods[0].port, "/tokenize", {"model": MODEL, "prompt": fresh()}).must_be_well().json()["tokens"]


def under_both_names(envoy):
    """Sends prompts under one name of the model and then under the other one; tokens cached in the second ones."""
    seen = []
    for _ in range(4):
        text = fresh()
        first = send(envoy.port, CHAT, chat_body(MODEL, text)).must_be_well()
        second = send(envoy.port, CHAT, chat_body(OTHER_NAME, text)).must_be_well()
        seen.append(must_be_cached(second, first.usage()[0], "the same prompt under the other name"))
    return f"cached under the other name: {seen}"


@check(PAIR)
def two_names(world):
    """Two served names of one model share prefixes, as they do in vLLM."""
    envoy = world.gateway()
    wait_for("the names of both pods", lambda: envoy.process.said().count("names for its model") == len(world.pods))
    return under_both_names(envoy)


@check(PAIR)
def two_names_by_settings(world):
    """The same where the settings of the pool say that one name is the other."""
    settings = {"models": [{"name": OTHER_NAME, "targets": [{"name": MODEL}]}]}
    return under_both_names(world.gateway(f"--pool-settings={world.file('two-names.json', settings)}"))


@check(PAIR, "B03")
def attribution_line(world):
    """A line that vLLM leaves out of `system`, with another value in each turn, changes no prefix."""
    envoy = world.gateway()
    one, two, same = (
        send(envoy.port, MESSAGES, (CASES / "B03" / f"{name}.json").read_bytes()).must_be_well()
        for name in ("turn1", "turn2", "turn2-same-line")
    )
    pods = [envoy.pod_of(answer) for answer in (one, two, same)]
    if len(set(pods)) > 1:
        raise Failure(f"the turns went to {pods}")
    must_be_cached(two, one.usage()[0], "turn 2")
    return f"turn 2 with another line: {two.usage()[1]} of {two.usage()[0]} tokens cached, on the same pod"


@check(PAIR, "B26")
def tools_in_another_spelling(world):
    """The same tools with other white space and another order of keys are the same prefix, where the template prints them so."""
    envoy = world.gateway()
    files = ("tools-compact", "tools-spaced-and-reordered")
    answers = [send(envoy.port, CHAT, (CASES / "B26" / f"{name}.json").read_bytes()).must_be_well() for name in files]
    pods = [envoy.pod_of(answer) for answer in answers]
    if pods[0] != pods[1]:
        raise Failure(f"the two spellings went to {pods}")
    prompt, cached = answers[1].usage()
    return f"both went to one pod, where {cached} of {prompt} tokens were cached"


@check(PAIR)
def believed_and_cached(world):
    """The tokens that a pod is believed to hold are those that it reports as cached, up to vLLM's blocks."""
    envoy, differences, prompts = world.gateway(), [], 0
    for _ in range(4):
        talk = Conversation(MODEL, words=600)
        for _ in range(4):
            answer = talk.round(envoy.port)
            (matched, of), (prompt, cached) = envoy.believed(answer), answer.usage()
            differences.append(abs(matched / max(of, 1) - cached / prompt))
            prompts += 1
    mean = statistics.mean(differences)
    if mean > 0.1:
        raise Failure(f"believed and reported differ by {mean:.1%} of the prompt in the mean of {prompts}")
    return f"{mean:.1%} of the prompt apart in the mean of {prompts} requests, {max(differences):.1%} at most"

"""Servers of several processes: API servers, and data-parallel ranks."""

from concurrent.futures import ThreadPoolExecutor

from ...common import Failure
from ..modes import PROCESSES, check
from ..pods import MODEL
from ..requests import CHAT, Conversation, chat_body, conversation_on, fresh, send
from .chats import must_be_cached, rounds


@check(PROCESSES)
def several_api_servers(world):
    """A pod with several API servers is known before its first request, and chats stay warm there."""
    # `sees` both: the gateway would not be there otherwise. The page of a fresh server has no samples of load.
    envoy, pod = world.gateway(), world.pods[0]
    if pod.metric("process_start_time_seconds") is not None:
        raise Failure("the page has process_start_time_seconds, so that it is no page of several API servers")
    talk, known = conversation_on(envoy, pod), 0
    for nth in range(3):
        answer = talk.round(envoy.port)
        if envoy.pod_of(answer) != pod.address:
            raise Failure(f"round {nth + 2} went to {envoy.pod_of(answer)}")
        must_be_cached(answer, known, f"round {nth + 2}")
        known = answer.usage()[0]
    first, later = rounds(envoy, True)
    return (
        f"first token after {first:.2f} s in first rounds, {later:.2f} s in later ones; no process_start_time_seconds"
    )


@check(PROCESSES, "B14")
def restart_without_start_time(world):
    """A restart of a pod with several API servers is noticed, although its page does not tell when it was started."""
    envoy, pod = world.gateway(), world.pods[0]
    talk = conversation_on(envoy, pod)
    envoy.wait_for_metric("warmpath_pod_held_tokens", lambda value: value > 0, "it to hold something", pod=pod.address)
    pod.kill()
    world.start_pod(0).ready()
    envoy.wait_for_metric("warmpath_pod_held_tokens", lambda value: value == 0, "it to hold nothing", pod=pod.address)
    answer = talk.round(envoy.port)
    if envoy.pod_of(answer) == pod.address and envoy.believed(answer)[0] > 0:
        raise Failure(f"it is believed to hold {envoy.believed(answer)[0]} tokens")
    return "after it was killed and started anew, it is believed to hold nothing"


@check(PROCESSES, "B27")
def data_parallel(world):
    """Conversations stay with the rank that has computed them, on a pod with two ranks, while others are under way there."""
    # Alone: a rank is named where all pods have it.
    pod = world.pods[1]
    envoy = world.gateway(pods=[pod])
    talks = [Conversation(MODEL, words=400) for _ in range(4)]
    believed, cached, prompts = 0, 0, 0
    for nth in range(4):
        # Side by side: vLLM itself gives a request to the rank that has less to do.
        with ThreadPoolExecutor(len(talks)) as pool:
            answers = list(pool.map(lambda talk: talk.round(envoy.port), talks))
        if nth == 0:
            continue
        for answer in answers:
            prompt, was_cached = answer.usage()
            matched, of = envoy.believed(answer)
            believed, cached, prompts = believed + matched * prompt / max(of, 1), cached + was_cached, prompts + prompt
    ranks = {key: value for key, value in pod.page().items() if key.startswith("vllm:prompt_tokens_total")}
    shares = list(ranks.values())
    if len(shares) != 2 or min(shares) == 0:
        raise Failure(f"prompt tokens per rank are {shares}, so that nothing is shown")
    said = f"believed {believed / prompts:.0%}, cached {cached / prompts:.0%} of the prompts; tokens per rank {shares}"
    if cached < 0.8 * believed:
        raise Failure(said)
    return said


@check(PROCESSES)
def client_names_no_rank(world):
    """A client's own X-data-parallel-rank does not choose a rank, and a rank that is not there is no error."""
    envoy = world.gateway(pods=[world.pods[1]])
    for rank in ("0", "1", "7", "x"):
        answer = send(envoy.port, CHAT, chat_body(MODEL, fresh(20)), headers={"x-data-parallel-rank": rank})
        answer.must_be_well()
    alone = send(world.pods[1].port, CHAT, chat_body(MODEL, fresh(20)), headers={"x-data-parallel-rank": "7"})
    return f"200 for ranks 0, 1, 7 and x; vLLM itself answers {alone.status} to rank 7"


@check(PROCESSES, "B27")
def different_numbers_of_engines(world):
    """A pod with one engine and one with two in one pool, as while pods are replaced: both serve, and no rank is named that one
    of them lacks."""
    envoy, seen = world.gateway(), {pod.address: 0 for pod in world.pods}
    for _ in range(16):
        answer = send(envoy.port, CHAT, chat_body(MODEL, fresh(20))).must_be_well()
        seen[envoy.pod_of(answer)] += 1
    if min(seen.values()) == 0:
        raise Failure(f"one pod got all of them, so that nothing is shown: {seen}")
    alone = send(world.pods[0].port, CHAT, chat_body(MODEL, fresh(20)), headers={"x-data-parallel-rank": "1"})
    return f"16 of 16 were answered, by both; vLLM with one engine answers {alone.status} to rank 1"

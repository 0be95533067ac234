"""Pods that refuse what is beyond their queue."""

from concurrent.futures import ThreadPoolExecutor

from ... import gateway
from ...common import Failure
from ...processes import wait_for
from ..modes import FULL, check
from ..pods import MODEL
from ..requests import CHAT, COMPLETIONS, MESSAGES, RESPONSES, chat_body, fresh, send

STREAMS = 100
# More than both pods take: 4 + 4 and 4 + 130.
FLOOD = 220


def many(port, requests):
    """Sends all at once."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: send(port, *request), requests))


@check(FULL, "B33", "B20")
def full_pod(world):
    """100 streams at once, of all APIs, on a pod with little room and one with much: nobody is told that a pod is busy."""
    envoy, small = world.gateway(), world.pods[0]
    requests = []
    for nth in range(STREAMS):
        text = fresh(15)
        requests.append(
            (
                (CHAT, chat_body(MODEL, text)),
                (COMPLETIONS, {"model": MODEL, "prompt": text, "max_tokens": 4, "stream": True}),
                (RESPONSES, {"model": MODEL, "input": text, "max_output_tokens": 4, "stream": True}),
                (
                    MESSAGES,
                    {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4, "stream": True},
                ),
            )[nth % 4]
        )
    # First past Warmpath, so that it is seen that the pod refuses.
    alone = many(small.port, requests)
    refused = sum(not answer.well() for answer in alone)
    if refused < STREAMS // 2:
        raise Failure(f"the pod with little room refused only {refused} of {STREAMS}, so that nothing is shown")
    answers = many(envoy.port, requests)
    lost = [answer for answer in answers if not answer.well()]
    if lost:
        raise Failure(f"{len(lost)} of {STREAMS} streams were not answered: {lost[0]}")
    moved = sum(line["attempts"] > 1 for line in map(envoy.chosen, answers))
    return f"{STREAMS} of {STREAMS} answered, {moved} after a refusal; past Warmpath the small pod refused {refused}"


@check(FULL, "B20", "B33")
def all_full(world):
    """More than both pods take: the rest gets 429 or 503 in OpenAI's form with Retry-After, streams too. Once the burst is over
    nobody is refused, and requests are routed to pods that are named."""
    envoy = world.gateway()
    requests = [(CHAT, chat_body(MODEL, fresh(40), stream=nth % 2 == 0, tokens=16)) for nth in range(FLOOD)]
    answers = many(envoy.port, requests)
    refused = [answer for answer in answers if not answer.well()]
    if not refused:
        raise Failure("nobody was refused, so that nothing is shown")
    for answer in refused:
        if answer.status not in (429, 503) or "retry-after" not in answer.headers or "error" not in answer.json():
            raise Failure(f"a refusal without its form: {answer}, headers {answer.headers}")
    after = many(envoy.port, [(CHAT, chat_body(MODEL, fresh(10))) for _ in range(4)])
    lines = [envoy.chosen(answer) for answer in after]
    if not all(answer.well() for answer in after) or not all(line["chosen"] for line in lines):
        raise Failure(
            f"after the burst: {[str(answer)[:100] for answer in after]}, chosen {[line['chosen'] for line in lines]}"
        )
    waits = sorted({answer.headers["retry-after"] for answer in refused})
    statuses = sorted({answer.status for answer in refused})
    return f"{FLOOD - len(refused)} answered, {len(refused)} refused with {statuses}, Retry-After {waits}; then 4 of 4 answered"


@check(FULL, "B18")
def keep_alives(world):
    """Comments that vLLM sends while a prompt is computed are passed on at once, and are no first token: the time that Warmpath
    learns from is that of the first event, and new prompts go to the other pod meanwhile."""
    envoy = world.gateway()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(send, envoy.port, CHAT, chat_body(MODEL, fresh(5000)))
        wait_for("the prompt to be computed", lambda: max(pod.load() for pod in world.pods))
        short = []
        while not long.done() and len(short) < 4:
            short.append(send(envoy.port, CHAT, chat_body(MODEL, fresh(30))).must_be_well())
        answer = long.result().must_be_well()
    if ": keep-alive" not in answer.text or answer.event < 2 * answer.first:
        raise Failure(
            f"first byte after {answer.first:.1f} s, first event after {answer.event:.1f} s: no comment came first"
        )
    line = envoy.chosen(answer)
    ttft_ms = gateway.record(line)["ttft_ms"]
    if abs(float(ttft_ms) / 1000 - answer.event) > 0.5:
        raise Failure(f"first event after {answer.event:.2f} s, and Warmpath takes {ttft_ms} ms for the first token")
    if line["pod"] in [envoy.pod_of(each) for each in short]:
        raise Failure("a new prompt went to the pod that computed the long one")
    return f"first comment after {answer.first:.1f} s, first event after {answer.event:.1f} s, ttft_ms {ttft_ms}; {len(short)} new ones went to the other pod"

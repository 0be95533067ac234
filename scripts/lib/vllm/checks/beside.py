"""What stands beside Warmpath and beside a pod's cache: another filter of Envoy, and host memory for what the cache lets go of."""

import json

from ...common import ROOT, Failure
from ...processes import Process, free_ports, wait_for
from ..modes import OFFLOAD, PAIR, check
from ..pods import MODEL
from ..requests import CHAT, COMPLETIONS, chat_body, fresh, send
from .load import cache_config

# Above what Envoy buffers for a connection (1 MiB).
LARGE = 1_600_000
WARMPATH = "                  - name: envoy.filters.http.wasm\n"
ROUTER = "                  - name: envoy.filters.http.router\n"
ADDITIONS = ROOT / "tests" / "fixtures" / "ext-proc"


def with_filter(place, port):
    """An edit of the configuration that puts the filter `before` or `after` Warmpath on the routed port."""

    def edit(text):
        head, mark, routed = text.partition("    - name: routed\n")
        start, warmpath, rest = routed.partition(WARMPATH)
        module, router, rest = rest.partition(ROUTER)
        added = (ADDITIONS / "filter.yaml").read_text().replace("TIMEOUT", "60s")
        chain = [added, warmpath, module] if place == "before" else [warmpath, module, added]
        listeners, clusters, rest = "".join([start, *chain, router, rest]).partition("\n  clusters:\n")
        cluster = (ADDITIONS / "cluster.yaml").read_text().replace("PORT", str(port))
        return "".join([head, mark, listeners, clusters, cluster, rest])

    return edit


@check(PAIR, "B29")
def another_filter(world):
    """Bodies of 1.6 MB arrive as they were sent with a full-duplex ext_proc filter before Warmpath, and after it."""
    text, answers = fresh(40), 0
    # The padding stands first and is no part of the prompt, so that the prompt is at the end of a body that vLLM serves.
    padded = {
        "metadata": {f"k{nth}": f"{nth:0>500}" for nth in range(LARGE // 512)},
        **chat_body(MODEL, text, stream=False),
    }
    # vLLM counts the tokens of a prompt that is too long for it, so that its refusal tells how much of the body came. As token ids
    # they need no tokenizer, which takes a minute for so much text.
    too_long = {"model": MODEL, "prompt": [100 + nth % 100 for nth in range(LARGE // 5)], "max_tokens": 1}
    bodies = [(CHAT, json.dumps(padded)), (COMPLETIONS, json.dumps(too_long))]
    if min(len(body) for _, body in bodies) < LARGE - 100_000:
        raise Failure(f"the bodies have {[len(body) for _, body in bodies]} bytes")
    alone = [send(world.pods[0].port, *body) for body in bodies]
    alone[0].must_be_well()
    if alone[1].status != 400:
        raise Failure(f"vLLM says of a prompt that is too long: {alone[1]}")
    for answer in ("at once", "end"):
        (port,) = free_ports(1)
        program = [world.installed.python, ROOT / "scripts" / "lib" / "vllm" / "echo_processor.py", port]
        processor = Process("processor", [*program, "end"] if answer == "end" else program)
        try:
            for place in ("before", "after"):
                envoy = world.gateway(edit=with_filter(place, port))
                wait_for(
                    "the processor to answer", lambda at=envoy.port: send(at, CHAT, chat_body(MODEL, "hi", 1)).well()
                )
                for body, direct in zip(bodies, alone):
                    routed = send(envoy.port, *body)
                    same = routed.usage()[0] == direct.usage()[0] if direct.well() else routed.error() == direct.error()
                    if routed.status != direct.status or not same:
                        raise Failure(
                            f"the filter {place} Warmpath, which answers {answer}: {routed}; past it: {direct}"
                        )
                    if direct.well() and routed.said() != direct.said():
                        raise Failure(f"the filter {place} Warmpath: {routed.said()!r} instead of {direct.said()!r}")
                    answers += 1
        finally:
            processor.end()
    sizes = " and ".join(f"{len(body):,} bytes" for _, body in bodies)
    return f"{answers} of {answers} bodies of {sizes} got what vLLM alone answers: {alone[1].error()[:90]}"


@check(OFFLOAD, "B21")
def offloaded_cache(world):
    """What has left a pod's cache for host memory is believed to be there where `index.pod_tokens` says so."""
    # Prompts that fill the cache several times, and then the first ones again: what was believed, and what was found.
    pod = world.pods[0]
    size, seen = cache_config(pod.page(), "kv_cache_size_tokens"), []
    for pod_tokens in (None, 20 * size):
        say = f'"max_mib": 48, "pod_tokens": {pod_tokens}' if pod_tokens else '"max_mib": 48'
        envoy = world.gateway(pods=[pod], edit=lambda text, say=say: text.replace('"max_mib": 48', say))
        prompts = [fresh(size // 6) for _ in range(10)]
        used = sum(send(envoy.port, CHAT, chat_body(MODEL, text)).must_be_well().usage()[0] for text in prompts)
        if used < 3 * size:
            raise Failure(f"the prompts have {used} tokens, and the cache {size}, so that nothing is shown")
        believed = cached = total = 0
        for text in prompts[:3]:
            answer = send(envoy.port, CHAT, chat_body(MODEL, text)).must_be_well()
            matched, of = envoy.believed(answer)
            prompt, found = answer.usage()
            believed, cached, total = believed + matched * prompt / max(of, 1), cached + found, total + prompt
        seen.append((believed / total, cached / total))
    (unsaid, found), (said, found_again) = seen
    what = f"cache {size} tokens, prompts {used}; found {found:.0%} and {found_again:.0%}"
    what += f"; believed {unsaid:.0%} without the setting, {said:.0%} with it"
    if min(found, found_again) < 0.8 or unsaid > 0.1 or said < 0.8:
        raise Failure(what)
    return what

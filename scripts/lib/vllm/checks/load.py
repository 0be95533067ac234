"""What other gateways do, and caches that are emptied."""

import random
import statistics
import threading
import time

from ...common import Failure
from ...processes import wait_for
from ..modes import HYBRID, PAIR, check
from ..pods import MODEL
from ..requests import CHAT, RESPONSES, Conversation, chat_body, fresh, send
from .chats import rounds

# Conversations whose cache is emptied: two pods have half of them each, or one has them all.
TALKS = 18
# What docs/compatibility.md says that Warmpath reads.
METRICS = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "process_start_time_seconds",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:engine_sleep_state",
]


@check(PAIR)
def metrics_page(world):
    """vLLM's page has each of the metrics that Warmpath reads, and the pods' sizes reach Warmpath's own page."""
    send(world.pods[0].port, CHAT, chat_body(MODEL, "hi")).must_be_well()
    page = world.pods[0].page()
    there = {key.partition("{")[0] for key in page}
    if missing := [name for name in METRICS if name not in there]:
        raise Failure(f"vLLM's page lacks {', '.join(missing)}")
    size = cache_config(page, "kv_cache_size_tokens")
    envoy = world.gateway()
    told = [envoy.metric("warmpath_pod_kv_capacity_tokens", pod=pod.address) for pod in world.pods]
    if told != [size, size]:
        raise Failure(f"Warmpath takes {told} for the cache sizes, and vLLM says {size}")
    return f"all {len(METRICS)} are there; cache size {size} tokens"


def cache_config(page, name):
    """A number among the labels of vllm:cache_config_info."""
    info = next(key for key in page if key.startswith("vllm:cache_config_info{"))
    return int(info.partition(f'{name}="')[2].partition('"')[0])


@check(HYBRID, "B01")
def hybrid_model(world):
    """A model with several KV cache groups: the cache size is what vLLM says that fits, and conversations stay warm."""
    envoy, page = world.gateway(), world.pods[0].page()
    size = cache_config(page, "kv_cache_size_tokens")
    blocks = cache_config(page, "num_gpu_blocks") * cache_config(page, "block_size")
    told = [envoy.metric("warmpath_pod_kv_capacity_tokens", pod=pod.address) for pod in world.pods]
    if told != [size, size]:
        raise Failure(f"Warmpath takes {told} for the cache sizes, and vLLM says {size}")
    first, later = rounds(envoy, True)
    said = f"cache size {size} tokens (blocks x size: {blocks})"
    return f"{said}; first token after {first:.2f} s in first rounds, {later:.2f} s in later ones"


@check(PAIR, "B02", "B18")
def load_of_others(world):
    """While long prompts that others have sent are on one pod, new ones go to the pod that has none."""
    envoy, busy, idle = world.gateway(), world.pods[0], world.pods[1]
    body = {"model": MODEL, "max_output_tokens": 4, "stream": True}
    others = [
        threading.Thread(target=send, args=(busy.port, RESPONSES, {**body, "input": fresh(2500)})) for _ in range(6)
    ]
    for each in others:
        each.start()
    # vLLM tells of its load after each step, and a step of long prompts takes seconds.
    wait_for("the pod to have requests", lambda: busy.load() >= 4)

    def seen():
        names = ("warmpath_pod_engine_running", "warmpath_pod_engine_waiting")
        return sum(envoy.metric(name, pod=busy.address) for name in names) >= 4

    wait_for("Warmpath to see them", seen)
    went = []
    while busy.load() >= 2 and len(went) < 6:
        went.append(envoy.pod_of(send(envoy.port, RESPONSES, {**body, "input": fresh(60)}).must_be_well()))
    for each in others:
        each.join()
    if len(went) < 2:
        raise Failure(f"the other prompts were computed after {len(went)} requests, so that nothing is shown")
    if set(went) != {idle.address}:
        raise Failure(f"{went.count(busy.address)} of {len(went)} went to the pod that had six long prompts")
    return f"{len(went)} of {len(went)} went to the pod that has none"


@check(PAIR, "B13")
def cache_reset(world):
    """After POST /reset_prefix_cache Warmpath soon believes that the pod holds nothing of what was there."""
    envoy, talks = world.gateway(), []
    for _ in range(TALKS):
        talk = Conversation(MODEL, words=300)
        talks.append((talk, envoy.pod_of(talk.round(envoy.port))))
    addresses = [address for _, address in talks]
    pod = world.pod_at(max(addresses, key=addresses.count))
    talks = [talk for talk, address in talks if address == pod.address]
    done = send(pod.port, "/reset_prefix_cache", b"", "POST")
    if done.status != 200:
        raise Failure(f"/reset_prefix_cache answered {done}")
    # They go on in another order than they began.
    random.Random(1).shuffle(talks)
    believed = []
    for talk in talks:
        answer = talk.round(envoy.port)
        if envoy.pod_of(answer) == pod.address and answer.usage()[1] > 0:
            raise Failure(f"the pod still had {answer.usage()[1]} tokens of a conversation, so that nothing is shown")
        matched, of = envoy.believed(answer)
        believed.append(matched / max(of, 1))
    if max(believed[len(believed) // 2 :]) > 0.2:
        raise Failure(f"believed of the {len(talks)} conversations, one after the other: {shares(believed)}")
    return f"believed of {len(talks)} conversations, one after the other: {shares(believed)}"


def shares(values):
    return ", ".join(f"{value:.0%}" for value in values)


@check(PAIR, "B23")
def cost_of_scraping(world):
    """What the pods' pages cost under traffic stays below 1 % of a pod's time, or 4 % while load changes fast."""
    envoy, pod = world.gateway(), world.pods[0]
    talk = Conversation(MODEL, words=100)
    # Both pods are scraped equally often.
    pages, began = envoy.scrapes(), time.monotonic()
    for _ in range(8):
        talk.round(envoy.port)
        time.sleep(1)
    rate = (envoy.scrapes() - pages) / len(world.pods) / (time.monotonic() - began)
    took = []
    for _ in range(10):
        began = time.monotonic()
        pod.page()
        took.append(time.monotonic() - began)
    page = statistics.median(took)
    said = f"{rate:.1f} pages per second of {page * 1000:.1f} ms each: {rate * page:.1%} of a thread"
    if not 0 < rate * page < 0.04:
        raise Failure(said)
    return said

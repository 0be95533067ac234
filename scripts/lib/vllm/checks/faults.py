"""Pods that stop and die under load."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from ...common import Failure
from ...processes import wait_for
from ..modes import PAIR, check
from ..pods import MODEL
from ..requests import CHAT, COMPLETIONS, Conversation, chat_body, conversation_on, fresh, send, uses

STOPPED_SECONDS = 20
# What a check gives Warmpath to notice a pod that stands still: scrapes take at most 1 s, and are repeated.
NOTICED_SECONDS = 4
# After a pod goes on, what waits there is computed.
ANSWERED_SECONDS = 120
# How long a client waits for an answer that takes a tenth of it.
PATIENCE = 6


@check(PAIR, "B32", "B31")
def pod_killed(world):
    """A pod is killed with streams that wait for their first token: each is answered, whole, by the other pod. Then the pod
    comes back, is believed to hold nothing, and gets requests again."""
    envoy, victim = world.gateway(), world.pods[1]
    talk = conversation_on(envoy, victim, words=900)
    envoy.wait_for_metric(
        "warmpath_pod_held_tokens", lambda value: value > 0, "it to hold something", pod=victim.address
    )
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(send, envoy.port, CHAT, chat_body(MODEL, fresh(1500), tokens=8)) for _ in range(16)]
        wait_for("streams on the pod", lambda: victim.load() >= 4)
        on_victim = victim.load()
        victim.kill()
        answers = [each.result() for each in waiting]
    lost = [answer for answer in answers if not answer.well()]
    moved = sum(line["attempts"] > 1 for line in map(envoy.chosen, answers))
    if lost:
        raise Failure(f"{len(lost)} of 16 streams were lost, {on_victim:.0f} were on the pod: {lost[0]}")
    if moved < 4:
        raise Failure(f"only {moved} streams had to move, so that little is shown")
    world.start_pod(1).ready()
    envoy.wait_for_metric(
        "warmpath_pod_held_tokens", lambda value: value == 0, "it to hold nothing", pod=victim.address
    )
    answer = talk.round(envoy.port)
    if envoy.pod_of(answer) == victim.address and envoy.believed(answer)[0] > 0:
        raise Failure(f"the pod that was started anew is believed to hold {envoy.believed(answer)[0]} tokens")
    wait_for("the pod to be used again", lambda: uses(envoy, victim), 60)
    return f"16 of 16 streams whole, {moved} of them moved; {on_victim:.0f} were on the pod; it is used again"


@check(PAIR, "B16", "B31")
def pod_stopped(world):
    """A pod stands still for 20 s (SIGSTOP) while clients talk: nothing is lost, and after a few seconds nothing is sent there."""
    envoy, victim = world.gateway(), world.pods[1]
    stop, answers, sent = threading.Event(), [], []

    def talk_on():
        while not stop.is_set():
            talk = Conversation(MODEL, words=200)
            for _ in range(3):
                began = time.monotonic()
                answer = send(envoy.port, CHAT, talk.body())
                answers.append(answer)
                sent.append((began, answer))
                if not answer.well():
                    return
                talk.messages += [{"role": "assistant", "content": answer.said()}, {"role": "user", "content": "And?"}]

    clients = [threading.Thread(target=talk_on, daemon=True) for _ in range(4)]
    for each in clients:
        each.start()
    wait_for("requests on both pods", lambda: len({line["pod"] for line in envoy.lines() if line["pod"]}) == 2, 120)
    stopped = time.monotonic()
    victim.pause()
    time.sleep(STOPPED_SECONDS)
    victim.resume()
    resumed = time.monotonic()
    time.sleep(5)
    stop.set()
    for each in clients:
        each.join(ANSWERED_SECONDS)
    lost = [answer for answer in answers if not answer.well()]
    if lost:
        raise Failure(f"{len(lost)} of {len(answers)} requests were lost: {lost[0]}")
    late = [a for began, a in sent if stopped + NOTICED_SECONDS < began < resumed and envoy.pod_of(a) == victim.address]
    waited = [a for began, a in sent if began < resumed and a.seconds > resumed - max(began, stopped) - 1]
    if late:
        raise Failure(f"{len(late)} requests were sent to the pod more than {NOTICED_SECONDS} s after it stopped")
    return f"0 of {len(answers)} requests lost; {len(waited)} waited for the pod; none was sent there after {NOTICED_SECONDS} s"


@check(PAIR, "B16")
def engine_hangs(world):
    """An engine stands still while its server answers health checks and serves its metrics page: a conversation of that pod is
    answered elsewhere from the fourth try on at the latest, and the pod is used again when its engine goes on."""
    envoy, victim = world.gateway(), world.pods[1]
    talk = conversation_on(envoy, victim)
    victim.signal_engine(signal.SIGSTOP)
    tries = []
    try:
        if not victim.answers():
            raise Failure("the server does not answer without its engine, so that nothing is shown")
        for _ in range(6):
            # A client that gives up, and tries again.
            answer = send(envoy.port, CHAT, talk.body(), patience=PATIENCE)
            tries.append("answered" if answer.well() else "given up")
    finally:
        victim.signal_engine(signal.SIGCONT)
    if "answered" not in tries[:4] or "given up" in tries[4:]:
        raise Failure(f"the tries of {PATIENCE} s: {', '.join(tries)}")
    wait_for("the pod to be used again", lambda: uses(envoy, victim), 120)
    return f"tries of {PATIENCE} s: {', '.join(tries)}; the pod is used again"


@check(PAIR, "B17")
def engine_killed(world):
    """An engine dies with streams that wait for their first token, and its server says so in them: each is answered by the other
    pod."""
    envoy, victim = world.gateway(), world.pods[1]
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(send, envoy.port, CHAT, chat_body(MODEL, fresh(1500), tokens=8)) for _ in range(12)]
        wait_for("streams on the pod", lambda: victim.load() >= 4)
        on_victim = victim.load()
        victim.signal_engine(signal.SIGKILL)
        answers = [each.result() for each in waiting]
    victim.kill()
    lost = [answer for answer in answers if not answer.well()]
    if lost:
        raise Failure(f"{len(lost)} of 12 streams were lost, {on_victim:.0f} were on the pod: {lost[0]}")
    moved = sum(line["attempts"] > 1 for line in map(envoy.chosen, answers))
    if not moved:
        raise Failure("no stream had to move, so that nothing is shown")
    return f"12 of 12 streams whole, {moved} of them moved; {on_victim:.0f} were on the pod"


@check(PAIR, "B31")
def clients_leave(world):
    """Clients that leave before the first token, and in the middle of a stream, leave no count behind, here or in vLLM."""
    envoy = world.gateway()
    with ThreadPoolExecutor(12) as pool:
        for seconds in (0.5, 3.0):
            bodies = [chat_body(MODEL, fresh(300), tokens=2000) for _ in range(12)]
            left = list(pool.map(lambda body, s=seconds: send(envoy.port, CHAT, body, patience=s), bodies))
            if any(answer.well() for answer in left):
                raise Failure("a client had its answer before it left, so that nothing is shown")
    for name in ("warmpath_pod_in_flight", "warmpath_pod_waiting", "warmpath_pod_outstanding_tokens"):
        envoy.wait_for_metric(name, lambda value: value == 0, f"{name} to be 0")
    wait_for("vLLM to be idle", lambda: sum(pod.load() for pod in world.pods) == 0, 60)
    pods = [envoy.pod_of(send(envoy.port, CHAT, chat_body(MODEL, fresh(30))).must_be_well()) for _ in range(20)]
    counts = sorted(pods.count(pod.address) for pod in world.pods)
    if counts[0] == 0:
        raise Failure("all of 20 requests went to one pod after that")
    return f"24 clients left; all counts are 0; 20 requests after that: {counts[1]} and {counts[0]}"


@check(PAIR, "B31")
def idle_connections(world):
    """vLLM closes connections that were idle for 5 s. Requests of that moment are not lost."""
    envoy, count, lost = world.gateway(), 0, []
    body = {"model": MODEL, "prompt": "hi", "max_tokens": 1}
    with ThreadPoolExecutor(8) as pool:
        for pause in (4.9, 4.97, 5.0, 5.01, 5.03, 5.1):
            answers = list(pool.map(lambda _: send(envoy.port, COMPLETIONS, body), range(8)))
            lost += [answer for answer in answers if not answer.well()]
            count += len(answers)
            time.sleep(pause)
    if lost:
        raise Failure(f"{len(lost)} of {count} requests were lost: {lost[0]}")
    return f"{count} of {count} requests answered"

"""Engines that sleep."""

from ...common import Failure
from ...processes import wait_for
from ..modes import PAIR, SLEEP, check
from ..pods import MODEL
from ..requests import CHAT, chat_body, conversation_on, fresh, send, uses

REQUESTS = 20


def while_asleep(world, sleep, wake_up):
    """Lets a pod sleep and wake up; how many requests met the other one meanwhile, and the tokens that the pod is believed to
    hold once it is awake."""
    envoy, sleeper = world.gateway(), world.pods[0]
    talk = conversation_on(envoy, sleeper)
    send(sleeper.port, sleep, b"", "POST").must_be_well()
    try:
        if not send(sleeper.port, "/is_sleeping").json()["is_sleeping"]:
            raise Failure("it does not sleep")
        wait_for_status(envoy, sleeper, "asleep")
        went = [
            envoy.pod_of(send(envoy.port, CHAT, chat_body(MODEL, fresh(20))).must_be_well()) for _ in range(REQUESTS)
        ]
        went.append(envoy.pod_of(talk.round(envoy.port)))
    finally:
        send(sleeper.port, wake_up, b"", "POST")
    if sleeper.address in went:
        raise Failure(f"{went.count(sleeper.address)} of {len(went)} requests went to the pod that sleeps")
    wait_for_status(envoy, sleeper, "ready")
    held = envoy.metric("warmpath_pod_held_tokens", pod=sleeper.address)
    wait_for("the pod to be used again", lambda: uses(envoy, sleeper))
    return len(went), held


def wait_for_status(envoy, pod, status):
    envoy.wait_for_metric(
        "warmpath_pod_status", lambda value: value == 1, f"Warmpath to see it {status}", pod=pod.address, status=status
    )


@check(PAIR, "B05")
def paused_engine(world):
    """An engine that is paused (POST /sleep?level=0) gets nothing while another one is awake, and is used again when it goes on."""
    count, held = while_asleep(world, "/sleep?level=0", "/wake_up?tags=scheduling")
    return f"{count} of {count} requests went to the pod that is awake; then the other one is used again, believed to hold {held:.0f} tokens"


@check(SLEEP, "B05")
def sleeping_pod(world):
    """An engine that sleeps with its weights offloaded (level 1) gets nothing while another one is awake. Once awake it is believed
    to hold nothing, and is used again."""
    count, held = while_asleep(world, "/sleep?level=1", "/wake_up")
    if held:
        raise Failure(f"it is awake and believed to hold {held:.0f} tokens")
    return f"{count} of {count} requests went to the pod that is awake; then the other one, believed to hold nothing, is used again"

"""Engines that sleep."""

from ...common import Failure
from ..modes import SLEEP, check
from ..pods import MODEL
from ..requests import CHAT, chat_body, conversation_on, fresh, send


@check(SLEEP, "B05")
def sleeping_pod(world):
    """A pod that sleeps gets nothing while another one is awake. Once awake it is believed to hold nothing."""
    envoy, sleeper = world.gateway(), world.pods[0]
    talk = conversation_on(envoy, sleeper)
    send(sleeper.port, "/sleep?level=1", b"", "POST").must_be_well()
    if not send(sleeper.port, "/is_sleeping").json()["is_sleeping"]:
        raise Failure("it does not sleep")
    envoy.wait_for_metric(
        "warmpath_pod_status", lambda value: value == 1, "Warmpath to see it", pod=sleeper.address, status="asleep"
    )
    went = [envoy.pod_of(send(envoy.port, CHAT, chat_body(MODEL, fresh(20))).must_be_well()) for _ in range(20)]
    went.append(envoy.pod_of(talk.round(envoy.port)))
    if sleeper.address in went:
        raise Failure(f"{went.count(sleeper.address)} of {len(went)} requests went to the pod that sleeps")
    send(sleeper.port, "/wake_up", b"", "POST").must_be_well()
    envoy.wait_for_metric(
        "warmpath_pod_status", lambda value: value == 1, "Warmpath to see it awake", pod=sleeper.address, status="ready"
    )
    held = envoy.metric("warmpath_pod_held_tokens", pod=sleeper.address)
    if held:
        raise Failure(f"it is awake and believed to hold {held:.0f} tokens")
    return f"{len(went)} of {len(went)} requests went to the pod that is awake; then the other one is believed to hold nothing"

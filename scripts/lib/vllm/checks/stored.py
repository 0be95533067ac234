"""Responses that a pod keeps."""

from ...common import Failure
from ..modes import PAIR, check
from ..pods import MODEL
from ..requests import RESPONSES, fresh, send

STORED = 6


@check(PAIR, "B04")
def stored_responses(world):
    """Follow-ups, looks and cancels of stored responses go to the pod that answered; the other one does not know them."""
    envoy, strangers = world.gateway(), 0
    for nth in range(STORED):
        # Fresh words: nothing but the stored response binds it to its pod.
        first = send(envoy.port, RESPONSES, {"model": MODEL, "input": fresh(40), "max_output_tokens": 4, "store": True})
        pod = world.pod_at(envoy.pod_of(first.must_be_well()))
        name = first.json()["id"]
        strangers += send(world.other(pod).port, f"{RESPONSES}/{name}").status == 404
        follow = {"model": MODEL, "previous_response_id": name, "input": "And then?", "max_output_tokens": 4}
        for what, answer in (
            ("a follow-up", send(envoy.port, RESPONSES, follow)),
            ("a streamed follow-up", send(envoy.port, RESPONSES, {**follow, "stream": True})),
            ("a look", send(envoy.port, f"{RESPONSES}/{name}")),
        ):
            if not answer.well() or envoy.pod_of(answer) != pod.address:
                raise Failure(f"{what} of response {nth + 1} from {pod.address}: {envoy.pod_of(answer)} said {answer}")
    if strangers != STORED:
        raise Failure(f"the other pod knew {STORED - strangers} of {STORED} responses, so that nothing is shown")
    background = {"model": MODEL, "input": fresh(600), "max_output_tokens": 2000, "background": True, "store": True}
    for nth in range(STORED):
        started = send(envoy.port, RESPONSES, background).must_be_well()
        name, pod = started.json()["id"], envoy.pod_of(started)
        cancelled = send(envoy.port, f"{RESPONSES}/{name}/cancel", b"", "POST").must_be_well()
        if envoy.pod_of(cancelled) != pod or cancelled.json().get("status") != "cancelled":
            raise Failure(f"cancel {nth + 1} at {envoy.pod_of(cancelled)}, started at {pod}: {cancelled}")
    unknown = send(envoy.port, f"{RESPONSES}/resp_0123456789abcdef")
    if unknown.status != 404:
        raise Failure(f"a look at an unknown response got {unknown}")
    return f"{3 * STORED} follow-ups and looks, {STORED} cancels; the other pod answers 404 to each"

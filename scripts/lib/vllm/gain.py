"""Time to first token of chats on real vLLM, through Warmpath's port and through the plain one."""

import statistics
from concurrent.futures import ThreadPoolExecutor

from ..common import say
from .requests import Conversation

# Side by side, as many as keep two CPUs busy without a queue that grows; every prompt is too long for one core to compute at once.
TALKS, ROUNDS, WORDS = 6, 8, 500


def measure(world, model, repetitions):
    """Sends the same kind of chats through both ports in turns, with cold prompts each time; a table of each turn and of all."""
    rows, everything = [], {"plain": [], "routed": []}
    for nth in range(repetitions):
        means = {}
        # Whoever is first has the same advantage as often as the other one.
        for which in ("plain", "routed") if nth % 2 == 0 else ("routed", "plain"):
            envoy = world.gateway()
            port = envoy.port if which == "routed" else envoy.plain_port
            answers = chats(port, model)
            everything[which] += answers
            means[which] = statistics.mean(answer.first for answer in answers)
            say(f"turn {nth + 1}, {which}: {describe(answers)}")
            world.end_check()
        rows.append(means["routed"] / means["plain"])
    lines = [
        f"{TALKS} chats of {ROUNDS} rounds side by side, {WORDS} words to begin with, {repetitions} times through each port"
    ]
    for which, about in (("plain", "8080 plain, least request"), ("routed", "8081 routed by Warmpath")):
        lines.append(f"  {about:<28}{describe(everything[which])}")
    ratio = statistics.mean(a.first for a in everything["routed"]) / statistics.mean(
        a.first for a in everything["plain"]
    )
    lines.append(
        f"  mean time to first token, routed / plain: {ratio:.2f} (per turn: {', '.join(f'{row:.2f}' for row in rows)})"
    )
    return "\n".join(lines)


def chats(port, model):
    """All chats through one port, side by side."""

    def talk(_):
        one = Conversation(model, words=WORDS, tokens=16)
        return [one.round(port) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(TALKS) as pool:
        return [answer for answers in pool.map(talk, range(TALKS)) for answer in answers]


def describe(answers):
    firsts = sorted(answer.first for answer in answers)
    prompt, cached = (sum(numbers) for numbers in zip(*(answer.usage() for answer in answers)))
    p95 = firsts[int(len(firsts) * 0.95)]
    return (
        f"first token after {statistics.mean(firsts):.3f} s in the mean, {statistics.median(firsts):.3f} s median, "
        f"{p95:.3f} s p95; {cached / prompt:.0%} of {prompt} prompt tokens cached"
    )

"""Conversations with long prompts, streamed: the traffic that shows what a router of LLM requests is for."""

import json
import time
from http.client import HTTPConnection, HTTPException

from .common import Failure

CHAT = "/v1/chat/completions"
# Longest wait for an answer: a real model may queue.
ANSWER_SECONDS = 600


class Refused(Failure):
    """An answer that is no success."""


def send(to, body, request_id):
    """Sends a streamed chat; its seconds to the first byte of text, its text, and its usage."""
    connection = HTTPConnection("127.0.0.1", to, timeout=ANSWER_SECONDS)
    start = time.monotonic()
    try:
        connection.request("POST", CHAT, body, {"content-type": "application/json", "x-request-id": request_id})
        answer = connection.getresponse()
        first = answer.read(1)
        seconds = time.monotonic() - start
        text = (first + answer.read()).decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise Refused(f"the request got no answer ({error}).") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Refused(f"the answer was {answer.status}: {text.strip()[:300]}")
    said, usage = "", {}
    for line in text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event.get("choices") or []:
                said += (choice.get("delta") or {}).get("content") or ""
    return seconds, said, usage


def cached_tokens(usage):
    """How many prompt tokens the pod says it had in its cache; None if it does not say."""
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def conversation(to, model, name, rounds=3, words=3000, answered=lambda: None):
    """One conversation of several rounds, each with all that was said before; (seconds, usage) of each round. `answered` is called
    after each."""
    document = " ".join(f"{name}-{nth}" if nth % 50 == 0 else f"word{nth % 97}" for nth in range(words))
    messages, done = [{"role": "user", "content": f"{document}\n\nWhat is this about?"}], []
    for nth in range(rounds):
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": 16,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        seconds, said, usage = send(to, json.dumps(body), f"demo-{name}-{nth}")
        done.append((seconds, usage))
        answered()
        messages = [
            *messages,
            {"role": "assistant", "content": said},
            {"role": "user", "content": f"Tell me more, part {nth}."},
        ]
    return done

"""Requests to a port of this machine, and what is in their answers."""

import contextlib
import http.client
import itertools
import json
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field

from ..common import Failure
from .pods import MODEL

# A pod computes one prompt after the other, and a check may send a hundred.
ANSWER_SECONDS = 300
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


@dataclass
class Answer:
    """An answer to its end; `status` is 0 where the connection broke before it."""

    id: str
    status: int
    headers: dict = field(default_factory=dict)
    text: str = ""
    # From the request to the first byte of the body, to the first event of a stream, and to the end.
    first: float = 0.0
    event: float = 0.0
    seconds: float = 0.0
    broken: str = ""

    @property
    def streamed(self):
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def json(self):
        try:
            return json.loads(self.text)
        except ValueError:
            raise Failure(f"the answer is no JSON: {self}") from None

    def events(self):
        """The JSON of each event of a stream."""
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: {")]

    def usage(self):
        """Prompt tokens, and those that were cached, of whichever API; zeros where the answer does not say."""
        found = {}
        for value in self.events() if self.streamed else [self.json()]:
            for holder in (value, value.get("response") or {}, value.get("message") or {}):
                found.update({key: number for key, number in (holder.get("usage") or {}).items() if number is not None})
        details = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
        cached = details.get("cached_tokens", found.get("cache_read_input_tokens")) or 0
        prompt = found.get("prompt_tokens", found.get("input_tokens", 0))
        if "cache_read_input_tokens" in found and not details:
            # Anthropic's input tokens are those that were not cached.
            prompt += cached
        return prompt, cached

    def said(self):
        """The text of a chat."""
        if self.streamed:
            choices = [choice for event in self.events() for choice in event.get("choices") or []]
            return "".join((choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in choices)
        choice = self.json()["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"]

    def error(self):
        """The message of an error, wherever it stands."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return self.text[:200]
        found = value.get("error", value) if isinstance(value, dict) else {}
        return str(found.get("message", self.text))[:200] if isinstance(found, dict) else self.text[:200]

    def well(self):
        """Whether a client has all it asked for."""
        if self.status != 200 or self.broken:
            return False
        if not self.streamed:
            return True
        events = self.events()
        last = events[-1].get("type") if events else None
        ends = "data: [DONE]" in self.text or last in ("response.completed", "response.incomplete", "message_stop")
        return ends and not any(event.get("error") or event.get("type") == "error" for event in events)

    def must_be_well(self):
        if not self.well():
            raise Failure(f"the answer is not what was asked for: {self}")
        return self

    def __str__(self):
        return f"status {self.status}{f', {self.broken}' if self.broken else ''}: {self.text.strip()[-300:]}"


def send(port, path, body=None, method=None, headers=None, patience=None):
    """Sends one request on a connection of its own and reads its answer to the end; a client with `patience` leaves after so many
    seconds."""
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    name = f"real-{uuid.uuid4().hex[:12]}"
    headers = {"x-request-id": name, **({"content-type": "application/json"} if body else {}), **(headers or {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    alarm = threading.Timer(patience, leave, [connection]) if patience else None
    answer, start = Answer(name, 0), time.monotonic()
    received = []
    if alarm:
        alarm.start()
    try:
        connection.request(method or ("POST" if body is not None else "GET"), path, body, headers)
        response = connection.getresponse()
        answer.status = response.status
        answer.headers = {key.lower(): value for key, value in response.getheaders()}
        received.append(response.read(1))
        answer.first = time.monotonic() - start
        while piece := response.read1(65536):
            received.append(piece)
            if not answer.event and b"data:" in b"".join(received):
                answer.event = time.monotonic() - start
    except (OSError, http.client.HTTPException) as error:
        answer.broken = f"broke off ({type(error).__name__}: {error})"
    finally:
        if alarm:
            alarm.cancel()
        connection.close()
    answer.seconds = time.monotonic() - start
    answer.text = b"".join(received).decode(errors="replace")
    return answer


def leave(connection):
    """Closes the connection under whoever waits for an answer on it."""
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


# Prompts -----------------------------------------------------------------------------------------------------------

_salt = uuid.uuid4().hex[:6]
_number = itertools.count()


def fresh(words=900):
    """A text that no pod has seen: some two and a half tokens per word, other ones from the start."""
    name = f"{_salt}{next(_number)}"
    return " ".join(f"{name}-{nth}" if nth % 50 == 0 else f"word{nth % 97}" for nth in range(words))


def chat_body(model, messages, tokens=4, stream=True, **more):
    """A chat that is answered with so many tokens."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, **more}
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


class Conversation:
    """A chat of several rounds, each with all that was said before."""

    def __init__(self, model, words=900, stream=True, tokens=4):
        self.model, self.stream, self.tokens = model, stream, tokens
        self.messages = [{"role": "user", "content": fresh(words)}]

    def body(self):
        return chat_body(self.model, self.messages, self.tokens, self.stream)

    def round(self, port, headers=None):
        """Sends the next round; its answer, which is well."""
        answer = send(port, CHAT, self.body(), headers=headers).must_be_well()
        self.messages.append({"role": "assistant", "content": answer.said()})
        self.messages.append({"role": "user", "content": f"And then? {fresh(3)}"})
        return answer


def conversation_on(envoy, pod, words=400):
    """A conversation whose first round this pod has answered."""
    for _ in range(40):
        talk = Conversation(MODEL, words)
        if envoy.pod_of(talk.round(envoy.port)) == pod.address:
            return talk
    raise Failure(f"none of 40 conversations went to {pod.address}")


def uses(envoy, pod):
    """Whether a new prompt goes to this pod."""
    return envoy.pod_of(send(envoy.port, CHAT, chat_body(MODEL, fresh(20))).must_be_well()) == pod.address

"""What clients send: whatever vLLM serves is served, and what it refuses gets the same status."""

import base64
import http.client
import json
import re
import socket

from ...common import ROOT, Failure, output
from ..modes import PAIR, check
from ..pods import MODEL, OTHER_NAME
from ..requests import CHAT, COMPLETIONS, MESSAGES, RESPONSES, send

CASES = ROOT / "tests" / "fixtures" / "cases"
HI = [{"role": "user", "content": "hi"}]


def chat(**more):
    return {"model": MODEL, "messages": HI, "max_tokens": 2, **more}


def completion(prompt, **more):
    return {"model": MODEL, "prompt": prompt, "max_tokens": 2, **more}


def file(name):
    return (CASES / name).read_bytes()


def no_model(value):
    body = chat(model=value)
    if value is ...:
        del body["model"]
    return body


def bodies(embeds):
    """Name, path, body of each request."""
    text = json.dumps(chat())
    return [
        ("no model", CHAT, no_model(...)),
        ("model null", CHAT, no_model(None)),
        ("model empty", CHAT, no_model("")),
        ("model a number", CHAT, no_model(7)),
        ("model unknown", CHAT, no_model("nobody")),
        ("no model, responses", RESPONSES, {"input": "hi", "max_output_tokens": 2}),
        ("no model, completions", COMPLETIONS, {"prompt": "hi", "max_tokens": 2}),
        ("no model, messages", MESSAGES, {"messages": HI, "max_tokens": 2}),
        ("other name", CHAT, no_model(OTHER_NAME)),
        ("byte order mark", CHAT, file("B07/utf8-bom.json")),
        ("UTF-16", CHAT, file("B07/utf16le-bom.json")),
        ("UTF-16 without mark", CHAT, text.encode("utf-16-be")),
        ("UTF-32", CHAT, text.encode("utf-32")),
        (
            "Latin-1",
            CHAT,
            json.dumps(chat(messages=[{"role": "user", "content": "é"}]), ensure_ascii=False).encode("latin-1"),
        ),
        ("NaN", CHAT, file("B09/nan.json")),
        ("-Infinity", COMPLETIONS, file("B09/minus-infinity.json")),
        ("half a surrogate pair", CHAT, file("B31/lone-surrogate.json")),
        ("stream as text", CHAT, chat(stream="true")),
        ("stream as number", CHAT, chat(stream=1)),
        ("stream null", CHAT, chat(stream=None)),
        ("stream as other text", CHAT, chat(stream="perhaps")),
        ("key twice", CHAT, text[:-1] + ', "max_tokens": 3}'),
        ("unknown key", CHAT, chat(whatever={"a": [1, 2]})),
        ("max_tokens as text", CHAT, chat(max_tokens="2")),
        ("list of prompts", COMPLETIONS, completion(["one", "two", "three"])),
        ("token ids", COMPLETIONS, completion([5, 6, 7])),
        ("list of token ids", COMPLETIONS, completion([[5, 6, 7], [8, 9]])),
        ("prompt empty", COMPLETIONS, completion("")),
        ("no prompts", COMPLETIONS, completion([])),
        ("prompt null", COMPLETIONS, completion(None)),
        ("prompt_embeds", COMPLETIONS, {"model": MODEL, "prompt_embeds": embeds, "max_tokens": 2}),
        ("prompt_embeds and prompt", COMPLETIONS, completion("", prompt_embeds=embeds)),
        ("prompt_embeds that are none", COMPLETIONS, {"model": MODEL, "prompt_embeds": "AAAA", "max_tokens": 2}),
        ("no messages", CHAT, chat(messages=[])),
        ("content null", CHAT, chat(messages=[{"role": "assistant", "content": None}, *HI])),
        ("content in parts", CHAT, chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}])),
        ("developer's message", CHAT, chat(messages=[{"role": "developer", "content": "Be brief."}, *HI])),
        ("cache_salt", CHAT, chat(cache_salt="one")),
        ("cache_salt empty", CHAT, chat(cache_salt="")),
        ("priority", CHAT, chat(priority=1)),
        ("input in items", RESPONSES, {"model": MODEL, "input": HI, "max_output_tokens": 2}),
        (
            "system in parts",
            MESSAGES,
            {"model": MODEL, "system": [{"type": "text", "text": "Be brief."}], "messages": HI, "max_tokens": 2},
        ),
        ("no JSON", CHAT, b"hello"),
        ("half a document", CHAT, text[: len(text) // 2]),
        ("a list", CHAT, [chat()]),
        ("a text", CHAT, json.dumps("hi")),
        ("null", CHAT, b"null"),
        ("empty", CHAT, b""),
        ("white space before", CHAT, "\n\n  " + text),
        ("more after it", CHAT, text + " {}"),
        ("a zero byte after it", CHAT, text.encode() + b"\0"),
        ("nested 5,000 deep", CHAT, text[:-1] + ', "deep": ' + "[" * 5000 + "]" * 5000 + "}"),
    ]


def embeddings(world):
    """Embeddings of three tokens, as a client of vLLM sends them: a tensor of torch, in base64."""
    code = (
        "import base64, io, json, sys, torch; config = json.load(open(sys.argv[1])); out = io.BytesIO(); "
        "torch.save(torch.ones(3, config['hidden_size'], dtype=torch.bfloat16), out); "
        "print(base64.b64encode(out.getvalue()).decode())"
    )
    text = output([world.installed.python, "-c", code, world.installed.model / "config.json"]).strip()
    base64.b64decode(text)
    return text


@check(PAIR, "B06", "B07", "B09", "B31")
def what_clients_send(world):
    """Fifty bodies of all kinds, sent to a pod and through Envoy: the same status, and the same kind of answer."""
    envoy, pod, wrong, counts = world.gateway(), world.pods[0], [], {}
    for name, path, body in bodies(embeddings(world)):
        # As bytes: a client's own library would refuse some of them.
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"content-type": "application/json"}
        alone, through = (send(port, path, raw, "POST", headers) for port in (pod.port, envoy.port))
        counts[alone.status] = counts.get(alone.status, 0) + 1
        if alone.status != through.status:
            wrong.append(f"{name}: {alone.status} from vLLM, {through.status} through Envoy ({through.error()})")
        elif alone.status == 200 and (alone.streamed, through.well()) != (through.streamed, alone.well()):
            wrong.append(f"{name}: other content: {alone} | {through}")
        elif alone.status >= 400 and ("error" in alone.text) != ("error" in through.text):
            wrong.append(f"{name}: other error: {alone.text[:150]} | {through.text[:150]}")
    if wrong:
        raise Failure("; ".join(wrong))
    return f"{sum(counts.values())} bodies, the same as from vLLM alone: " + ", ".join(
        f"{count} with {status}" for status, count in sorted(counts.items())
    )


def raw(port, request):
    """Sends bytes and reads to the end of the connection; the status line and the body."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


@check(PAIR, "B08", "B31")
def old_protocols(world):
    """HTTP/1.0 with and without `Host`, and a POST that asks to upgrade to h2c, are served."""
    envoy, seen = world.gateway(), []

    def short(name):
        """The request of a case, with an answer of two tokens."""
        body = json.dumps(chat()).encode()
        head = file(name).partition(b"\r\n\r\n")[0]
        return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body

    get = b"GET /v1/models HTTP/1.0\r\n\r\n"
    for name, request in (
        ("HTTP/1.0 POST", short("B08/request.txt")),
        ("HTTP/1.0 GET without Host", get),
        ("h2c", short("B31/h2c-request.txt")),
    ):
        status, body = raw(envoy.port, request)
        if status != 200:
            raise Failure(f"{name}: status {status}: {body[:200]!r}")
        json.loads(body)
        seen.append(name)
    return f"200: {', '.join(seen)}"


@check(PAIR)
def other_paths(world):
    """Paths that are not inference answer as vLLM does: models, tokenize, version, unknown ones, embeddings."""
    envoy, pod, seen = world.gateway(), world.pods[0], []
    for method, path, body in (
        ("GET", "/v1/models", None),
        ("GET", "/version", None),
        ("GET", "/health", None),
        ("GET", "/ping", None),
        ("POST", "/tokenize", {"model": MODEL, "prompt": "hi"}),
        ("POST", "/detokenize", {"model": MODEL, "tokens": [5, 6]}),
        ("POST", "/v1/embeddings", {"model": MODEL, "input": "hi"}),
        ("GET", "/v1/nothing", None),
        ("GET", CHAT, None),
        ("POST", "/v1/chat/completions/render", chat()),
    ):
        alone, through = (send(port, path, body, method) for port in (pod.port, envoy.port))
        if alone.status != through.status:
            raise Failure(f"{method} {path}: {alone.status} from vLLM, {through.status} through Envoy: {through}")
        seen.append(f"{path} {through.status}")
    return ", ".join(seen)

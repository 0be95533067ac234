"""A client of HTTP on one connection per request, for questions that a script asks."""

import http.client
import json


def ask(port, method="GET", path="/", body=None, timeout=5, host="127.0.0.1"):
    """Status and body of one request; (0, b"") when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def ask_pod(pod, path):
    """Status and text of a GET to a pod, HOST:PORT."""
    host, _, port = pod.rpartition(":")
    status, body = ask(int(port), path=path, host=host.strip("[]"))
    return status, body.decode(errors="replace")


def chat(model, text="Are you there?", **more):
    """The body of a chat completion."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more})


def first_model(pod):
    """The first model of a pod, asked as any client would; None if it names none."""
    try:
        return json.loads(ask_pod(pod, "/v1/models")[1])["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        return None

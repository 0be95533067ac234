"""An external processor for Envoy (`ext_proc`, full duplex) that gives every body back as it came, as a guardrail does that finds
nothing. Run by vLLM's own Python, which has gRPC: echo_processor.py PORT [end]. With `end` it answers when a body is whole.

Fields and their numbers are those of envoy.service.ext_proc.v3.
"""

import sys
from concurrent import futures

import grpc

# Bytes of body in one message at most: Envoy refuses larger ones than 64 KiB in full duplex.
CHUNK = 62_000
MOST = 64 << 20


def number(value):
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(at, body):
    """A field that has bytes or a message."""
    return number(at << 3 | 2) + number(len(body)) + body


def fields(message):
    """The fields of a message: numbers, and bytes."""
    at, found = 0, {}

    def read():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = read()
        if key & 7 == 0:
            found[key >> 3] = read()
        elif key & 7 == 2:
            size = read()
            found[key >> 3] = message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of kind {key & 7}")
    return found


def pieces(body, ends):
    """The same body, in pieces that Envoy takes."""
    starts = range(0, max(len(body), 1), CHUNK)
    for start in starts:
        last = ends and start == starts[-1]
        streamed = field(1, body[start : start + CHUNK]) + (number(2 << 3) + number(1) if last else b"")
        # ProcessingResponse.request_body.response.body_mutation.streamed_response
        yield field(3, field(1, field(3, field(3, streamed))))


def process(messages, _, at_the_end):
    """Answers the messages of one request."""
    held = b""
    for message in map(fields, messages):
        if 2 in message and (not at_the_end or fields(message[2]).get(3)):
            yield field(1, b"")
        if 4 in message:
            part = fields(message[4])
            body, ends = part.get(1, b""), bool(part.get(2))
            if not at_the_end:
                yield from pieces(body, ends)
                continue
            held += body
            if ends:
                yield field(1, b"")
                yield from pieces(held, True)
        if 6 in message:
            yield field(5, b"")


def main():
    at_the_end = sys.argv[2:] == ["end"]
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", MOST), ("grpc.max_send_message_length", MOST)],
    )
    method = grpc.stream_stream_rpc_method_handler(lambda messages, context: process(messages, context, at_the_end))
    service = grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": method})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


main()

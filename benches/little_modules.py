"""Proxy-Wasm modules that do next to nothing, with the callbacks of another module.

What an Envoy with one costs more than an Envoy without is the price of calling into the virtual machine, callback by callback; or, with
headers to set, what any module costs that waits for the body and names pods.
"""


def unsigned(value):
    """LEB128, as WebAssembly writes numbers."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def signed(value):
    """LEB128 of a number that is not negative, as WebAssembly writes constants."""
    out = unsigned(value)
    # Bit 6 of the last byte would be its sign.
    return out if out[-1] < 0x40 else out[:-1] + bytes([out[-1] | 0x80, 0])


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def unsigned(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def bytes(self):
        size = self.unsigned()
        self.at += size
        return self.data[self.at - size : self.at]


def callbacks(module):
    """The functions that a module exports under a name of Proxy-Wasm: name -> (parameters, results) as type bytes."""
    sections, reader = {}, Reader(module)
    reader.at = 8
    while reader.at < len(module):
        kind = module[reader.at]
        reader.at += 1
        sections[kind] = reader.bytes()

    types, reader = [], Reader(sections[1])
    for _ in range(reader.unsigned()):
        reader.at += 1  # "function"
        types.append((reader.bytes(), reader.bytes()))

    functions, reader = [], Reader(sections[2])
    for _ in range(reader.unsigned()):
        reader.bytes(), reader.bytes()
        kind = reader.data[reader.at]
        reader.at += 1
        if kind != 0:
            raise ValueError("the module imports something that is no function")
        functions.append(reader.unsigned())
    reader = Reader(sections[3])
    functions += [reader.unsigned() for _ in range(reader.unsigned())]

    found, reader = {}, Reader(sections[7])
    for _ in range(reader.unsigned()):
        name, kind = reader.bytes().decode(), reader.data[reader.at]
        reader.at += 1
        index = reader.unsigned()
        if kind == 0 and name.startswith("proxy_"):
            found[name] = types[functions[index]]
    return found


I32 = b"\x7f"
# These say whether the module may start at all: 1 is yes.
YES = {"proxy_on_vm_start", "proxy_on_configure", "proxy_validate_configuration", "proxy_on_done"}
# These get the context, a size and whether the request ends here.
OF_REQUESTS = {"proxy_on_request_headers", "proxy_on_request_body"}
# The one function that is imported, its index, its type, and its argument for the headers of a request.
SET_HEADER, SET_HEADER_INDEX, SET_HEADER_TYPE, REQUEST_HEADERS = "proxy_replace_header_map_value", 0, (I32 * 5, I32), 0
# Where the module has its texts, and where the host puts what nobody reads: at 4 and 64 KiB of memory.
TEXTS, HOST_BYTES = 4096, 65536


def constant(value):
    return b"\x41" + signed(value)


class Texts:
    """What is in memory from TEXTS on."""

    def __init__(self):
        self.data = b""

    def put(self, data):
        """Appends it; where it is."""
        at = TEXTS + len(self.data)
        self.data += data
        return at


def set_headers(headers, pods, texts):
    """Code that sets header n of request r to the address of pod r + n."""

    def words(*values):
        return b"".join(value.to_bytes(4, "little") for value in values)

    pods = [(texts.put(pod.encode()), len(pod)) for pod in pods]
    # Of each pod, where its address is and how long; as many again as there are headers, so that r + n needs no remainder.
    texts.put(bytes(-len(texts.data) % 4))
    table = texts.put(b"".join(words(*pods[at % len(pods)]) for at in range(len(pods) + len(headers))))
    code = b""
    for nth, header in enumerate(headers):
        row = b"\x20\x00" + constant(len(pods)) + b"\x70" + constant(8) + b"\x6c"  # 8 * (context % pods)
        code += constant(REQUEST_HEADERS) + constant(texts.put(header.encode())) + constant(len(header))
        code += b"".join(row + b"\x28\x02" + unsigned(table + 8 * nth + word) for word in (0, 4))
        code += b"\x10" + unsigned(SET_HEADER_INDEX) + b"\x1a"
    return code


def body(name, results, headers, pods, texts):
    """The code of one callback."""
    if name in ("malloc", "proxy_on_memory_allocate"):
        return constant(HOST_BYTES)
    if name in OF_REQUESTS and headers:
        # If this is the end, then (with the headers set) Continue, or else Pause.
        last = set_headers(headers, pods, texts) if name == "proxy_on_request_body" else b""
        return b"\x20\x02\x04" + I32 + last + constant(0) + b"\x05" + constant(1) + b"\x0b"
    return constant(1 if name in YES else 0) if results else b""


def module(exports, headers, pods):
    """A module with these functions (name -> (parameters, results)), memory, and an allocator that always gives the same place."""

    def vector(items):
        items = list(items)
        return unsigned(len(items)) + b"".join(items)

    def section(kind, content):
        return bytes([kind]) + unsigned(len(content)) + content

    def name(text):
        return vector([bytes([byte]) for byte in text.encode()])

    exports = {**exports, "malloc": (I32, I32)}
    imports = {SET_HEADER: SET_HEADER_TYPE} if headers else {}
    types = sorted({*exports.values(), *imports.values()})
    texts = Texts()
    bodies = [b"\x00" + body(each, results, headers, pods, texts) + b"\x0b" for each, (_, results) in exports.items()]
    return (
        b"\x00asm\x01\x00\x00\x00"
        + section(1, vector(b"\x60" + vector([bytes([t]) for t in p]) + vector([bytes([t]) for t in r]) for p, r in types))
        + section(2, vector(name("env") + name(each) + b"\x00" + unsigned(types.index(kind)) for each, kind in imports.items()))
        + section(3, vector(unsigned(types.index(signature)) for signature in exports.values()))
        + section(5, b"\x01\x00\x10")  # one memory of 16 pages, 1 MiB
        + section(
            7,
            vector(
                [name("memory") + b"\x02\x00"]
                + [name(each) + b"\x00" + unsigned(at) for at, each in enumerate(exports, len(imports))]
            ),
        )
        + section(10, vector(unsigned(len(body)) + body for body in bodies))
        + section(11, vector([b"\x00" + constant(TEXTS) + b"\x0b" + unsigned(len(texts.data)) + texts.data]))
    )


def like(other, headers=(), pods=()):
    """A module that exports what `other` exports, and does nothing; or, with headers, holds each request until its body is whole, and
    then sets them to addresses of pods, beginning with another for the next request.
    """
    return module(callbacks(other), headers, pods)

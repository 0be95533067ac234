"""A Proxy-Wasm module that does nothing: the callbacks of another module, each of which returns 0 at once.

What an Envoy with it costs more than one without is the price of calling into the virtual machine, callback by callback.
"""


def unsigned(value):
    """LEB128, as WebAssembly writes numbers."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


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


# These say whether the module may start at all: 1 is yes.
YES = {"proxy_on_vm_start", "proxy_on_configure", "proxy_validate_configuration", "proxy_on_done"}


def module(exports):
    """A module with these functions (name -> (parameters, results)), memory, and an allocator that always gives the same place."""

    def vector(items):
        items = list(items)
        return unsigned(len(items)) + b"".join(items)

    def section(kind, content):
        return bytes([kind]) + unsigned(len(content)) + content

    def name(text):
        return unsigned(len(text)) + text.encode()

    i32 = b"\x7f"
    exports = {**exports, "malloc": (i32, i32)}
    types = sorted(set(exports.values()))
    bodies = []
    for each, (_, results) in exports.items():
        if each in ("malloc", "proxy_on_memory_allocate"):
            # Always at 64 KiB: what the host copies there nobody reads.
            code = b"\x41\x80\x80\x04"
        else:
            code = (b"\x41\x01" if each in YES else b"\x41\x00") if results else b""
        bodies.append(b"\x00" + code + b"\x0b")
    return (
        b"\x00asm\x01\x00\x00\x00"
        + section(1, vector(b"\x60" + vector([bytes([t]) for t in p]) + vector([bytes([t]) for t in r]) for p, r in types))
        + section(3, vector(unsigned(types.index(signature)) for signature in exports.values()))
        + section(5, b"\x01\x00\x10")  # one memory of 16 pages, 1 MiB
        + section(
            7,
            vector(
                [name("memory") + b"\x02\x00"]
                + [name(each) + b"\x00" + unsigned(at) for at, each in enumerate(exports)]
            ),
        )
        + section(10, vector(unsigned(len(body)) + body for body in bodies))
    )


def like(other, leave_out=()):
    """A module that exports what `other` exports, and does nothing."""
    return module({name: signature for name, signature in callbacks(other).items() if name not in leave_out})

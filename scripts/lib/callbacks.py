"""The list of callbacks, src/wasm/callbacks.txt: read for the capabilities of a role, and held against the source."""

import re

from .common import ROOT, Failure

LIST = ROOT / "src" / "wasm" / "callbacks.txt"
# What Envoy calls, as the source has it.
EXPORTED = re.compile(r'^extern "C" fn (proxy_on_\w+)\(', re.MULTILINE)
# Envoy may call it whatever the role is, and no configuration names it.
ALLOCATOR = "proxy_on_memory_allocate"


def by_role(text=None):
    """The callbacks of each role, in the order of the list: {"router": ["proxy_on_vm_start", ...], ...}."""
    roles = {}
    for line in (LIST.read_text() if text is None else text).splitlines():
        words = line.split("#")[0].split()
        if words and len(words) < 2:
            raise Failure(f"{LIST.relative_to(ROOT)}: {words[0]} names no role")
        for role in words[1:]:
            roles.setdefault(role, []).append(words[0])
    return roles


def exported(source):
    """The callbacks that a source file exports."""
    return [name for name in EXPORTED.findall(source) if name != ALLOCATOR]


def must_cover(sources):
    """Fails for a callback that is exported and not listed: it would be stripped, and silently never be called."""
    listed = {name for names in by_role().values() for name in names}
    seen = 0
    for source in sources:
        for name in exported(source.read_text()):
            seen += 1
            if name not in listed:
                raise Failure(
                    f"{source.relative_to(ROOT)} exports {name}, and {LIST.relative_to(ROOT)} does not list it: "
                    "Envoy would never call it"
                )
    if not seen:
        raise Failure("no callback was found in src/wasm: has the source moved?")

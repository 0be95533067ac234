"""The list of callbacks, src/wasm/callbacks.txt: read for the capabilities of a role, and held against the source."""

import re

from .common import ROOT, Failure

LIST = ROOT / "src" / "wasm" / "callbacks.txt"
# A method of the SDK's traits, and the callback that Envoy makes for it, where their names differ.
RENAMED = re.compile(r"^on_http_(request|response)_(headers|body|trailers)$")


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


def callback_of(method):
    """`proxy_on_request_headers` for `on_http_request_headers`."""
    return "proxy_" + RENAMED.sub(r"on_\1_\2", method)


def implemented(source):
    """The methods `on_...` inside the implementations of the SDK's traits in a source file."""
    found = []
    for block in re.split(r"^(?=impl\b)", source, flags=re.MULTILINE):
        if re.match(r"impl(?:<.*?>)? (?:\w+::)*(?:Context|RootContext|HttpContext|StreamContext) for ", block):
            body = block[: block.find("\n}\n") + 1] or block
            found += re.findall(r"^    fn (on_\w+)\(", body, re.MULTILINE)
    return found


def must_cover(sources):
    """Fails for a callback that is implemented and not listed: it would be stripped, and silently never be called."""
    listed = {name for names in by_role().values() for name in names}
    seen = 0
    for source in sources:
        for method in implemented(source.read_text()):
            seen += 1
            if callback_of(method) not in listed:
                raise Failure(
                    f"{source.relative_to(ROOT)} implements {method}, and {LIST.relative_to(ROOT)} does not list "
                    f"{callback_of(method)}: Envoy would never call it"
                )
    if not seen:
        raise Failure("no implementation of HttpContext was found in src/wasm: has the source moved?")

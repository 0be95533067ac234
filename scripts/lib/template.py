"""The lines of envoy/envoy.yaml, and what flags change in them."""

import json
import re

from .common import Failure


class Template:
    """Lines of a configuration. Every replacement says how often it must apply, so that no edit of the template can
    leave a flag without effect."""

    def __init__(self, text):
        self.lines = text.splitlines()

    def replace(self, mark, pattern, value, times):
        """Puts `value` in place of `pattern`'s match, on the lines whose comment names the flag `mark`."""
        marked = re.compile(rf"#(?: --[a-z-]+)* {mark}(?: --[a-z-]+)*$")
        self._each(times, mark, marked.search, pattern, value)

    def setting(self, key, value, times=1):
        """Replaces the value of one of Warmpath's own settings, which are JSON and hold no comments."""
        self._each(times, key, lambda line: True, rf'(?<="{key}": )(\[.*\]|[^,]+)', json.dumps(value))

    def rename(self, pattern, value, times=None):
        """Puts `value` in place of each match of `pattern`, of which there are `times`, or any number but none."""
        found = sum(len(re.findall(pattern, line)) for line in self.lines)
        if found == 0 or (times is not None and found != times):
            raise Failure(f"envoy/envoy.yaml has {found} places for {pattern}")
        self.lines = [re.sub(pattern, lambda _: value, line) for line in self.lines]

    def after(self, first, text, value):
        """Puts `value` in place of the line `text` that comes next after the last line `first`."""
        stripped = [line.strip() for line in self.lines]
        if first not in stripped:
            raise Failure(f"envoy/envoy.yaml has no line '{first}'")
        start = len(stripped) - 1 - stripped[::-1].index(first)
        if text not in stripped[start:]:
            raise Failure(f"envoy/envoy.yaml has no line '{text}' after '{first}'")
        at = stripped.index(text, start)
        self.lines[at] = self.lines[at].replace(text, value)

    def before(self, text, lines):
        """Puts `lines` before the only line `text`."""
        at = [i for i, line in enumerate(self.lines) if line == text]
        if len(at) != 1:
            raise Failure(f"envoy/envoy.yaml must have one line '{text}'")
        self.lines[at[0] : at[0]] = lines

    def repeat(self, mark, lines):
        """Replaces the lines that end in the flag `mark` by `lines`, indented as the first of them."""
        at = [i for i, line in enumerate(self.lines) if line.endswith(f"# {mark}")]
        if not at or at != list(range(at[0], at[0] + len(at))):
            raise Failure(f"envoy/envoy.yaml must have one block of lines marked '# {mark}'")
        indent = self.lines[at[0]][: -len(self.lines[at[0]].lstrip())]
        self.lines[at[0] : at[-1] + 1] = [f"{indent}{line} # {mark}" for line in lines]

    def put(self, mark, lines):
        """Puts `lines` in place of the comment that begins with the flag `mark`, indented like it."""
        at = [i for i, line in enumerate(self.lines) if line.lstrip().startswith(f"# {mark} ")]
        if len(at) != 1:
            raise Failure(f"envoy/envoy.yaml must have one comment that begins with '# {mark}'")
        indent = self.lines[at[0]][: -len(self.lines[at[0]].lstrip())]
        self.lines[at[0] : at[0] + 1] = [f"{indent}{line}" for line in lines]

    def drop(self, mark):
        """Removes each line that ends in the flag `mark`, all that it holds, and the comment above it."""
        marked = f"# {mark}"
        if not any(line.endswith(marked) for line in self.lines):
            raise Failure(f"envoy/envoy.yaml must have a line marked '{marked}'")

        while at := [i for i, line in enumerate(self.lines) if line.endswith(marked)]:
            first, last = self._above(at[0]), at[0]
            while last + 1 < len(self.lines) and depth(self.lines[last + 1]) > depth(self.lines[at[0]]):
                last += 1
            del self.lines[first : last + 1]

    def _each(self, times, name, chosen, pattern, value):
        done = 0
        for i, line in enumerate(self.lines):
            if chosen(line):
                self.lines[i], count = re.subn(pattern, lambda _: value, line, count=1)
                done += count
        if done != times:
            raise Failure(f"envoy/envoy.yaml has {done} places for {name} instead of {times}")

    def callbacks(self, by_role):
        """Lists the callbacks of each role among its capabilities; the role is that of the `root_id` before them."""
        lines, role, filled = [], None, []
        for line in self.lines:
            named = re.match(r"\s+root_id: (\w+)", line)
            role = named[1] if named else role
            if not re.match(r"\s+proxy_on_\w+: \{\}$", line):
                lines.append(line)
            elif role not in filled:
                indent = line[: -len(line.lstrip())]
                lines += [f"{indent}{name}: {{}}" for name in by_role.get(role, [])]
                filled.append(role)
        if sorted(filled) != sorted(by_role):
            raise Failure(f"envoy/envoy.yaml has callbacks of {filled}, and src/wasm/callbacks.txt of {list(by_role)}")
        self.lines = lines

    def more_settings(self, settings):
        """Adds settings of the pool to Warmpath's own; one that is there already gets the new value."""
        for key, value in settings.items():
            at = [i for i, line in enumerate(self.lines) if f'"{key}": ' in line]
            if at:
                self.setting(key, value)
                continue
            first = next(i for i, line in enumerate(self.lines) if '"fail_open": ' in line)
            indent = self.lines[first][: -len(self.lines[first].lstrip())]
            self.lines.insert(first + 1, f'{indent}"{key}": {json.dumps(value, ensure_ascii=False)},')

    def own_vm(self, role):
        """Gives a role a VM of its own, by a configuration of the VM that no other role has."""
        start = next(i for i, line in enumerate(self.lines) if re.match(rf"\s+root_id: {role}\b", line))
        at = next(i for i in range(start, len(self.lines)) if "StringValue, value: " in self.lines[i])
        self.lines[at] = re.sub(r"(?<=StringValue, value: )\w+", role, self.lines[at])
        vm = max(i for i in range(at) if self.lines[i].strip() == "vm_config:")
        self.lines[self._above(vm) : vm] = [f"{' ' * depth(self.lines[vm])}# A VM of its own."]

    def deny(self, role, callback):
        """Takes a callback from those of a role."""
        start = next(i for i, line in enumerate(self.lines) if re.match(rf"\s+root_id: {role}\b", line))
        del self.lines[next(i for i in range(start, len(self.lines)) if self.lines[i].strip() == f"{callback}: {{}}")]

    def capabilities_in_plugin(self):
        """Moves each list of capabilities, with the comment above it, from its `vm_config` to the plugin."""
        moved = 0
        for at in [i for i, line in enumerate(self.lines) if line.strip() == "capability_restriction_config:"]:
            first, end = self._above(at), at + 1
            while depth(self.lines[end]) > depth(self.lines[at]):
                end += 1
            block = self.lines[first:end]
            del self.lines[first:end]
            vm = max(i for i in range(first) if self.lines[i].strip() == "vm_config:")
            vm = self._above(vm)
            self.lines[vm:vm] = [line[2:] for line in block]
            moved += 1
        if not moved:
            raise Failure("envoy/envoy.yaml has no capability_restriction_config")

    def _above(self, at):
        """The first line of the comment above a line, or the line itself."""
        while self.lines[at - 1].lstrip().startswith("#"):
            at -= 1
        return at


def depth(line):
    return len(line) - len(line.lstrip())

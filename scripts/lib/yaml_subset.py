"""The YAML of envoy/envoy.yaml as values."""

import json
import re

from .common import Failure


class Yaml:
    """Reads the YAML of the template, and no more of YAML than that: Python has no reader of its own, and nobody should
    have to install one for this. What it does not know stops it."""

    KEY = re.compile(r'("[^"]*"|[A-Za-z0-9_.-]+):(?: +(.*))?$')
    COMMENT = re.compile(r"""((?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*'|(?<! )#)*?)(?:(?:^|(?<= ))#.*)?$""")

    def __init__(self, text):
        self.lines = text.splitlines()
        self.at = 0
        self.anchors = {}

    def document(self):
        value = self.block()
        if self.peek():
            self.stop()
        return value

    def stop(self):
        raise Failure(f"line {self.at + 1} of the configuration is beyond --json: {self.lines[self.at].strip()}")

    def peek(self):
        """Indentation and text of the next line that is no comment; None at the end."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            match = self.COMMENT.match(line)
            if not match:
                self.stop()
            if match[1].strip():
                return len(line) - len(line.lstrip()), match[1].strip()
            self.at += 1
        return None

    def block(self):
        indent, text = self.peek()
        if text.startswith("- "):
            return self.sequence(indent)
        if self.KEY.match(text):
            return self.mapping(indent)
        self.at += 1
        return self.after(text, indent - 1)

    def sequence(self, indent):
        found = []
        while (line := self.peek()) and line[0] == indent and line[1].startswith("- "):
            self.lines[self.at] = self.lines[self.at].replace("- ", "  ", 1)
            found.append(self.block())
        return found

    def mapping(self, indent):
        found = {}
        while (line := self.peek()) and line[0] == indent and (match := self.KEY.match(line[1])):
            self.at += 1
            found[match[1].strip('"')] = self.after(match[2] or "", indent)
        return found

    def after(self, text, indent):
        """A value that begins with `text`, on a line of this indentation."""
        if text.startswith("&"):
            name, _, text = text[1:].partition(" ")
            self.anchors[name] = self.after(text, indent)
            return self.anchors[name]
        if text == "":
            line = self.peek()
            if not line or line[0] <= indent:
                self.stop()
            return self.block()
        if text == "|":
            first = self.at
            while self.at < len(self.lines) and (
                self.lines[self.at].startswith(" " * (indent + 1)) or not self.lines[self.at].strip()
            ):
                self.at += 1
            lines = self.lines[first : self.at]
            cut = len(lines[0]) - len(lines[0].lstrip())
            return "\n".join(line[cut:] for line in lines).rstrip("\n") + "\n"
        if text[0] in "[{\"'":
            value, rest = self.flow(text)
            return value if rest == "" else self.stop()
        return self.scalar(text)

    def flow(self, text):
        """The value at the start of `text`, inside brackets or quotes, and what follows it."""
        if text[0] in "[{":
            found, text = ([] if text[0] == "[" else {}), text[1:].lstrip()
            while text[0] not in "]}":
                if isinstance(found, dict):
                    key, text = self.flow_key(text)
                value, text = self.flow(text)
                if isinstance(found, dict):
                    found[key] = value
                else:
                    found.append(value)
                text = text[1:].lstrip() if text[0] == "," else text
            return found, text[1:].lstrip()
        if text[0] == '"':
            value, end = json.JSONDecoder().raw_decode(text)
            return value, text[end:].lstrip()
        if text[0] == "'":
            value, rest = text[1:].split("'", 1)
            return value, rest.lstrip()
        plain = re.match(r"[^,\]}]+", text)[0]
        return self.scalar(plain.strip()), text[len(plain) :].lstrip()

    def flow_key(self, text):
        match = re.match(r'("[^"]*"|[A-Za-z0-9_.-]+): *', text) or self.stop()
        return match[1].strip('"'), text[match.end() :]

    def scalar(self, text):
        if text.startswith("*"):
            return self.anchors[text[1:]]
        if text in ("true", "false", "null"):
            return json.loads(text)
        if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
            return json.loads(text)
        return text

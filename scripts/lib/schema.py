"""Holds a JSON document against a schema, as far as envoy/pool-settings.schema.json uses the language of schemas.

Every error names the place and the fix, in the words of the module, which reads the document later.
"""

import json
import re

from .common import Failure

# What a type is called, and how to recognize it. A bool is an int to Python.
TYPES = {
    "object": ("an object: {...}", lambda value: isinstance(value, dict)),
    "array": ("a list: [...]", lambda value: isinstance(value, list)),
    "string": ("a text", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
}
# A keyword that is not among these would pass unchecked.
KNOWN = {
    "$schema",
    "title",
    "description",
    "default",
    "type",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "maxItems",
    "items",
    "required",
    "properties",
    "additionalProperties",
}


def problems(value, schema, place=""):
    """What is wrong with a value, a sentence each."""
    if unknown := set(schema) - KNOWN:
        raise Failure(f"the schema uses {', '.join(sorted(unknown))}, which is not checked")
    named = f"`{place}` " if place else "the document "
    if "enum" in schema:
        if value not in schema["enum"]:
            yield f"{named}is {json.dumps(value)}; use {' or '.join(json.dumps(word) for word in schema['enum'])}"
        return
    word, is_one = TYPES[schema["type"]]
    if not is_one(value):
        yield f"{named}is {json.dumps(value)[:60]}; write {word}"
        return
    if schema["type"] == "integer" and not schema["minimum"] <= value <= schema["maximum"]:
        yield f"{named}is {value}; use {schema['minimum']} to {schema['maximum']}"
    if schema["type"] == "string":
        if len(value) < schema.get("minLength", 0):
            yield f"{named}is empty; write a name"
        if len(value.encode()) > schema.get("maxLength", len(value.encode())):
            yield f"{named}has {len(value.encode())} bytes, the limit is {schema['maxLength']}"
        if not re.search(schema.get("pattern", ""), value):
            yield f"{named}is {json.dumps(value)}, which does not match {schema['pattern']}"
    if schema["type"] == "array":
        if len(value) > schema["maxItems"]:
            yield f"{named}lists {len(value)}; write at most {schema['maxItems']}"
        for nth, item in enumerate(value):
            yield from problems(item, schema["items"], f"{place}[{nth}]")
    if schema["type"] == "object":
        inside = f"{place}." if place else ""
        for key in schema.get("required", []):
            if key not in value:
                yield f"`{inside}{key}` is missing; write a {key}"
        for key, item in value.items():
            if key in schema["properties"]:
                yield from problems(item, schema["properties"][key], inside + key)
            else:
                yield f"`{inside}{key}` is no setting; there are {', '.join(schema['properties'])}"


def read(text):
    """A JSON document; a key that is there twice is an error."""

    def once(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"`{key}` is there twice; write each key once")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)

"""The settings of a pool in a file: read, and held against the schema and what it cannot say."""

import json

from . import schema
from .common import ROOT

SCHEMA = ROOT / "envoy" / "pool-settings.schema.json"


def problems(settings):
    """What is wrong with settings, a sentence each."""
    found = list(schema.problems(settings, json.loads(SCHEMA.read_text())))
    if found:
        return found
    for kind in ("models", "objectives"):
        names = [entry["name"] for entry in settings.get(kind, [])]
        found += [
            f"`{kind}[{nth}].name` is {json.dumps(name)}, which is there twice"
            for nth, name in enumerate(names)
            if name in names[:nth]
        ]
    for nth, model in enumerate(settings.get("models", [])):
        weighted = ["weight" in target for target in model.get("targets", [])]
        if any(weighted) and not all(weighted):
            found.append(
                f"`models[{nth}].targets` has a weight for some and not for all; give each one a weight, or none"
            )
    return found


def load(path):
    """The settings in a file; ValueError says what is wrong with them."""
    settings = schema.read(path.read_text())
    if found := problems(settings):
        raise ValueError("; ".join(found[:5]))
    settings.pop("$schema", None)
    return settings

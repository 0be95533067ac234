"""What the module is made of: a CycloneDX document, and the licence texts of its parts."""

import json
import re
import uuid
from pathlib import Path

from .common import ROOT, output

TARGET_OF_MODULE = "wasm32-wasip1"


def parts():
    """The packages that are compiled into the module, each as cargo's metadata describes it, and their dependencies by id."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET_OF_MODULE]
    metadata = json.loads(output(command))
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {}
    for node in metadata["resolve"]["nodes"]:
        normal = [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        edges[node["id"]] = [each for each in normal if not is_macro(packages[each])]
    root = next(each for each, package in packages.items() if package["name"] == "warmpath-wasm")
    found, waiting = [], [root]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.append(each)
            waiting += edges[each]
    ordered = sorted((packages[each] for each in found), key=lambda package: (package["name"], package["version"]))
    return ordered, {each: sorted(edges[each]) for each in found}, packages[root]


def is_macro(package):
    """True for what runs in the compiler and is no part of the module."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def checksums():
    """SHA-256 of each crate as the registry has it, by (name, version)."""
    entry = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): sum for name, version, sum in re.findall(entry, (ROOT / "Cargo.lock").read_text())}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def cyclonedx(version, module_sha256, time):
    """The bill of materials of a module, as CycloneDX 1.6 JSON; the same text for the same module."""
    packages, edges, root = parts()
    known = checksums()
    ids = {package["id"]: purl(package) for package in packages}
    components = []
    for package in packages:
        if package is root:
            continue
        component = {
            "type": "library",
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
            "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        }
        if sum := known.get((package["name"], package["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": sum}]
        components.append(component)
    module = {
        "type": "application",
        "bom-ref": purl(root),
        "name": "warmpath.wasm",
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": module_sha256}],
        "licenses": [{"expression": "Apache-2.0"}],
    }
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, module_sha256)}",
        "version": 1,
        "metadata": {"timestamp": time, "component": module},
        "components": components,
        "dependencies": [
            {"ref": purl(package), "dependsOn": [ids[each] for each in edges[package["id"]]]} for package in packages
        ],
    }
    return json.dumps(bill, indent=2) + "\n"


def licence_texts():
    """The licence files of every part that is not Warmpath's own, one after the other."""
    texts = []
    for package in parts()[0]:
        if package["source"] is None:
            continue
        folder = Path(package["manifest_path"]).parent
        files = sorted(file for file in folder.iterdir() if re.match(r"(?i)(licen[cs]e|copying|unlicense)", file.name))
        title = f"{package['name']} {package['version']}: {package['license']}"
        texts.append(f"{'=' * len(title)}\n{title}\n{'=' * len(title)}\n")
        texts += [f"--- {file.name}\n\n{file.read_text(errors='replace').strip()}\n" for file in files]
        if not files:
            texts.append("(the crate has no licence file of its own)\n")
    return "\n".join(texts)

"""The module, and the programs for Kubernetes, as OCI images, laid out as folders that registries and their tools take as they are.

Envoy Gateway and Istio pull a module in two forms: "compat", a container image of the one file `plugin.wasm`, which every
registry takes, and "oci", whose layers are the module and its configuration under media types of their own. A layout holds one of
them: a tag must lead to an image and not to a choice of images.
"""

import hashlib
import io
import json
import tarfile
import zlib

OCI = "application/vnd.oci.image"
WASM = "application/vnd.module.wasm"


class Layout:
    """Blobs by their digest, and an index of tagged manifests."""

    def __init__(self, folder):
        self.folder = folder
        self.manifests = []
        (folder / "blobs" / "sha256").mkdir(parents=True)

    def blob(self, data, kind):
        """Stores bytes, and returns how a manifest refers to them."""
        name = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / "sha256" / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    def image(self, tag, config, layers, notes):
        """Adds a manifest under a tag: the bytes of its configuration, and its layers as `blob` returned them."""
        kind = f"{OCI}.manifest.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": self.blob(document(config), f"{OCI}.config.v1+json"),
            "layers": layers,
            "annotations": notes,
        }
        entry = self.blob(document(manifest), kind)
        self.manifests.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})

    def name_for_import(self, name):
        """Gives the image a whole name, for who imports the layout into containerd, as `kind load image-archive` does."""
        self.manifests[-1]["annotations"]["io.containerd.image.name"] = name

    def finish(self):
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": self.manifests}
        (self.folder / "index.json").write_bytes(document(index))
        (self.folder / "oci-layout").write_bytes(document({"imageLayoutVersion": "1.0.0"}))


def write_compat(folder, module, version, time, notes):
    """Writes the layout of the form "compat"; `time` is RFC 3339, `notes` are annotations of the manifest."""
    layout = Layout(folder)
    packed = tar_of({"plugin.wasm": (module, 0o644)})
    layer = layout.blob(gzip_of(packed), f"{OCI}.layer.v1.tar+gzip")
    layout.image(version, config([packed], time), [layer], {**notes, "module.wasm.image/variant": "compat"})
    layout.finish()


def write_oci(folder, module, version, time, notes):
    """Writes the layout of the form "oci"; arguments as for `write_compat`."""
    layout = Layout(folder)
    parts = [(b"{}", f"{WASM}.config.v1+json"), (module, f"{WASM}.content.layer.v1+wasm")]
    layers = [layout.blob(data, kind) for data, kind in parts]
    layout.image(version, config([data for data, _ in parts], time), layers, notes)
    layout.finish()


def write_program(folder, name, files, architecture, version, time, notes):
    """Writes the layout of a program's image: `files` are bytes by name, of which the one called `name` is the static program."""
    layout = Layout(folder)
    packed = tar_of({file: (data, 0o755 if file == name else 0o644) for file, data in files.items()})
    layer = layout.blob(gzip_of(packed), f"{OCI}.layer.v1.tar+gzip")
    runs = {"Entrypoint": [f"/{name}"], "User": "65532:65532"}
    layout.image(version, config([packed], time, architecture, "linux", runs), [layer], notes)
    layout.name_for_import(f"docker.io/library/{name}:{version}")
    layout.finish()


def config(layers, time, architecture="wasm", system="wasi", runs=None):
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": digests}
    return {"created": time, "architecture": architecture, "os": system, "config": runs or {}, "rootfs": rootfs}


def document(value):
    """JSON that is the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def tar_of(files):
    """A tar of files, bytes and mode by name, without anything of the machine that packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def gzip_of(data):
    """The gzip form of bytes as stored blocks: what a compressor makes of them depends on its version, and the digest with it."""
    most = 0xFFFF
    out = bytearray(b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff")
    for at in range(0, len(data), most):
        chunk = data[at : at + most]
        last = at + most >= len(data)
        out += bytes([last]) + len(chunk).to_bytes(2, "little") + (len(chunk) ^ most).to_bytes(2, "little") + chunk
    return bytes(out) + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")

"""What the scripts make of files: callbacks, the configuration, the image."""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import unittest
from pathlib import Path

from lib import callbacks, image
from lib.common import ROOT, Failure
from lib.template import Template

SOURCE = """
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32) -> u32 {
    0
}
#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(id: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {}

fn proxy_on_something_else() {}
"""


class CallbacksTest(unittest.TestCase):
    def test_exported_callbacks_are_found_and_other_functions_are_not(self):
        self.assertEqual(callbacks.exported(SOURCE), ["proxy_on_request_headers", "proxy_on_log"])

    def test_a_callback_that_is_exported_and_not_listed_is_named(self):
        # A clean clone has no such folder before its first build.
        (ROOT / "target").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
            source = Path(folder) / "exports.rs"
            source.write_text(SOURCE)
            with self.assertRaisesRegex(Failure, "exports proxy_on_log, and .* does not list it"):
                callbacks.must_cover([source])

    def test_a_source_without_any_callback_is_a_failure_of_the_check(self):
        with self.assertRaisesRegex(Failure, "has the source moved"):
            callbacks.must_cover([])

    def test_roles_are_read_in_order_and_a_callback_without_one_is_refused(self):
        read = callbacks.by_role("# list\nproxy_on_tick a b # ticks\nproxy_on_delete b\n")
        self.assertEqual(read, {"a": ["proxy_on_tick"], "b": ["proxy_on_tick", "proxy_on_delete"]})
        with self.assertRaises(Failure):
            callbacks.by_role("proxy_on_tick\n")


class TemplateTest(unittest.TestCase):
    TEXT = """\
config:
  root_id: router
  # Its VM.
  vm_config:
    # What it may call.
    capability_restriction_config:
      allowed_capabilities:
        proxy_on_tick: {}
        proxy_log: {}
    vm_id: warmpath
    configuration: { type: StringValue, value: other }
"""

    def test_callbacks_of_a_role_replace_those_that_are_there(self):
        template = Template(self.TEXT)
        template.callbacks({"router": ["proxy_on_delete", "proxy_on_tick"]})
        self.assertEqual(
            [line.strip() for line in template.lines[7:10]],
            ["proxy_on_delete: {}", "proxy_on_tick: {}", "proxy_log: {}"],
        )
        with self.assertRaises(Failure):
            Template(self.TEXT).callbacks({"collector": ["proxy_on_tick"]})

    def test_capabilities_move_from_the_vm_to_the_plugin_with_their_comment(self):
        template = Template(self.TEXT)
        template.capabilities_in_plugin()
        self.assertEqual(
            template.lines,
            [
                "config:",
                "  root_id: router",
                "  # What it may call.",
                "  capability_restriction_config:",
                "    allowed_capabilities:",
                "      proxy_on_tick: {}",
                "      proxy_log: {}",
                "  # Its VM.",
                "  vm_config:",
                "    vm_id: warmpath",
                "    configuration: { type: StringValue, value: other }",
            ],
        )
        with self.assertRaises(Failure):
            Template("a: b").capabilities_in_plugin()

    def test_a_role_gets_a_vm_of_its_own_and_the_comment_says_so(self):
        template = Template(self.TEXT)
        template.own_vm("router")
        self.assertIn("    configuration: { type: StringValue, value: router }", template.lines)
        self.assertIn("  # A VM of its own.", template.lines)
        self.assertNotIn("  # Its VM.", template.lines)

    def test_a_dropped_line_takes_what_it_holds_and_its_comment_with_it(self):
        template = Template(self.TEXT.replace("restriction_config:\n", "restriction_config: # --flag\n"))
        template.drop("--flag")
        self.assertEqual(
            [line.strip() for line in template.lines],
            [
                "config:",
                "root_id: router",
                "# Its VM.",
                "vm_config:",
                "vm_id: warmpath",
                "configuration: { type: StringValue, value: other }",
            ],
        )
        with self.assertRaises(Failure):
            template.drop("--flag")

    def test_a_replacement_that_finds_nothing_is_a_failure(self):
        with self.assertRaises(Failure):
            Template(self.TEXT).replace("--port", r"\d+", "1", 1)


class ImageTest(unittest.TestCase):
    def test_gzip_of_gives_the_bytes_back_and_is_the_same_each_time(self):
        for data in (b"x", bytes(range(256)) * 1000, b"y" * 0xFFFF, b"z" * 0x10000):
            packed = image.gzip_of(data)
            self.assertEqual(gzip.decompress(packed), data)
            self.assertEqual(packed, image.gzip_of(data))

    def read(self, write, module, name=None):
        """The manifest of a layout with one image, and its layers as bytes; every digest on the way is checked. `name` is that for
        who imports it."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), module, "1.2.3", "2026-01-01T00:00:00Z", {})

            def blob(entry):
                data = (Path(folder) / "blobs" / "sha256" / entry["digest"][len("sha256:") :]).read_bytes()
                self.assertEqual("sha256:" + hashlib.sha256(data).hexdigest(), entry["digest"])
                self.assertEqual(len(data), entry["size"])
                return data

            (entry,) = json.loads((Path(folder) / "index.json").read_text())["manifests"]
            named = {"io.containerd.image.name": name} if name else {}
            self.assertEqual(entry["annotations"], {"org.opencontainers.image.ref.name": "1.2.3", **named})
            manifest = json.loads(blob(entry))
            digests = json.loads(blob(manifest["config"]))["rootfs"]["diff_ids"]
            return manifest, digests, [blob(layer) for layer in manifest["layers"]]

    MODULE = b"\0asm" + bytes(100_000)

    def test_the_compat_form_is_a_layer_with_plugin_wasm(self):
        manifest, digests, layers = self.read(image.write_compat, self.MODULE)
        packed = gzip.decompress(layers[0])
        self.assertEqual(digests, ["sha256:" + hashlib.sha256(packed).hexdigest()])
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            self.assertEqual(tar.getnames(), ["plugin.wasm"])
            self.assertEqual(tar.extractfile("plugin.wasm").read(), self.MODULE)
        self.assertEqual(manifest["annotations"]["module.wasm.image/variant"], "compat")

    def test_the_controllers_image_is_the_program_and_the_module(self):
        def write(folder, module, version, time, notes):
            files = {"warmpath-controller": b"\x7fELF", "warmpath.wasm": module}
            image.write_program(folder, "warmpath-controller", files, "arm64", version, time, notes)

        _, digests, layers = self.read(write, self.MODULE, "docker.io/library/warmpath-controller:1.2.3")
        packed = gzip.decompress(layers[0])
        self.assertEqual(digests, ["sha256:" + hashlib.sha256(packed).hexdigest()])
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            modes = {entry.name: entry.mode for entry in tar.getmembers()}
            self.assertEqual(modes, {"warmpath-controller": 0o755, "warmpath.wasm": 0o644})
            self.assertEqual(tar.extractfile("warmpath.wasm").read(), self.MODULE)

    def test_the_oci_form_has_the_module_as_its_second_layer(self):
        manifest, digests, layers = self.read(image.write_oci, self.MODULE)
        self.assertEqual(layers, [b"{}", self.MODULE])
        self.assertEqual(digests, ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers])
        self.assertTrue(manifest["layers"][1]["mediaType"].endswith("content.layer.v1+wasm"))

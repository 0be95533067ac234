"""The programs of a release, each static for one architecture: the controller, and the simulated pod."""

import os
import platform
import struct
from pathlib import Path

from .common import ROOT, TARGET, Failure, run

CONTROLLER, SIMULATOR = "warmpath-controller", "warmpath-sim"
# As containers call what Rust calls otherwise, and the number that an ELF file has for it.
ARCHITECTURES = {"x86_64": ("amd64", 62), "aarch64": ("arm64", 183)}
# The kind of segment that names the loader of a dynamic program.
INTERPRETER = 3


def build(target):
    """Builds both for a Rust target: the architecture, and the folder that they lie in. Nothing in them is of a folder of
    this machine, or of the time."""
    machine = target.partition("-")[0]
    if machine not in ARCHITECTURES:
        raise Failure(f"--target {target}: not one of {', '.join(ARCHITECTURES)}")
    architecture, number = ARCHITECTURES[machine]
    cargo_home = os.environ.get("CARGO_HOME") or Path.home() / ".cargo"
    flags = ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"]
    flags += [f"--remap-path-prefix={ROOT}=", f"--remap-path-prefix={cargo_home}=cargo"]
    environment = {
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        # OpenSSL tells when it was built, and where it would look for plug-ins that it is built without.
        "SOURCE_DATE_EPOCH": "0",
        "GNUMAKEFLAGS": "ENGINESDIR=/usr/lib/engines-3 MODULESDIR=/usr/lib/ossl-modules",
    }
    linker = f"CARGO_TARGET_{target.upper().replace('-', '_')}_LINKER"
    if machine != platform.machine() and linker not in os.environ:
        # The name of Debian's cross compiler.
        environment[linker] = f"{machine}-linux-gnu-gcc"
    # Its own folder: what was built without these settings would be taken as it is.
    folder = TARGET / "programs"
    command = ["cargo", "build", "--release", "--locked", "--package", CONTROLLER, "--package", SIMULATOR, "--bins"]
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    run([*command, "--target", target, "--target-dir", folder], f"building the controller for {target}")
    built = folder / target / "release"
    for name in (CONTROLLER, SIMULATOR):
        must_be_static(built / name, number)
        must_name_no_folder(built / name, (ROOT, cargo_home))
    return architecture, built


def must_be_static(program, machine):
    """Fails unless a program is for this machine (a number of ELF) and needs no loader and so no library."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18) != (machine,):
        raise Failure(f"{program} is not a 64-bit program for the machine {machine}")
    start, size, count = struct.unpack_from("<Q", data, 32) + struct.unpack_from("<HH", data, 54)
    if any(struct.unpack_from("<I", data, start + size * nth) == (INTERPRETER,) for nth in range(count)):
        raise Failure(f"{program} is not static: it asks for a loader")


def must_name_no_folder(program, folders):
    """Fails if a program has a path of this machine in it."""
    data = program.read_bytes()
    if named := [str(folder) for folder in folders if f"{folder}/".encode() in data]:
        raise Failure(f"{program} names folders of this machine: {', '.join(named)}")

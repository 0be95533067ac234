"""Runs one Wasm program of WASI preview 1 in wasmtime: python wasm_test.py PROGRAM [ARGUMENTS...]

It is what tests that are compiled to wasm32-wasip1 run in. Compiled code is kept beside the program, so that only the
first of many runs waits for it. It needs the package `wasmtime`, and so stands alone, without the other scripts.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import wasmtime


def load(engine, program):
    """The program's module; compiled once, under a lock that the first of several processes holds."""
    compiled = program.with_suffix(f".cwasm-{version('wasmtime')}")
    if not compiled.exists() or compiled.stat().st_mtime_ns < program.stat().st_mtime_ns:
        module = wasmtime.Module.from_file(engine, str(program))
        aside = compiled.with_suffix(f".{os.getpid()}")
        aside.write_bytes(module.serialize())
        aside.replace(compiled)
        return module
    return wasmtime.Module.deserialize_file(engine, str(compiled))


def main(program, *arguments):
    config = wasmtime.Config()
    # What Envoy's V8 has, and the module is built for.
    config.wasm_simd = True
    config.wasm_bulk_memory = True
    engine = wasmtime.Engine(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = [program, *arguments]
    wasi.env = [
        (name, value) for name, value in os.environ.items() if name.startswith(("PROPTEST_", "RUST_", "WARMPATH_"))
    ]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    # Tests that read recorded answers, and proptest's seeds of failures.
    wasi.preopen_dir(os.getcwd(), ".")
    store.set_wasi(wasi)
    instance = linker.instantiate(store, load(engine, Path(program)))
    try:
        instance.exports(store)["_start"](store)
    except wasmtime.ExitTrap as trap:
        return trap.code
    except (wasmtime.Trap, wasmtime.WasmtimeError) as trap:
        print(trap, file=sys.stderr)
        return 101
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""What every script shares: where things are, how it speaks, how it fails, and how it reads its flags."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# As cargo has it: relative to the repository unless absolute.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
NAME = Path(sys.argv[0]).name

# No bytecode beside the sources: scripts write nothing outside target/ and dist/.
sys.dont_write_bytecode = True


class Failure(Exception):
    """Something the user must read: a fact, and what to do about it. Becomes one message and exit status 1."""


def say(text):
    """Tells the user on standard error what is going on; standard output is for results."""
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)


def shown(path):
    """A path as the user would type it here."""
    near = os.path.relpath(path)
    return near if not near.startswith("../..") else str(path)


def in_ci():
    """True where nobody looks at a warning: a check that cannot run there has failed."""
    return os.environ.get("CI", "").lower() in ("1", "true")


# Flags -------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Flags of a script: a description, examples below, no abbreviations, and errors that name where help is."""

    def __init__(self, description, examples, epilogue="", **more):
        super().__init__(
            prog=f"scripts/{NAME}",
            description=description,
            epilog=f"examples:\n{examples}\n{epilogue}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )

    def error(self, message):
        print(f"{NAME}: {message}\n({self.prog} --help lists the flags)", file=sys.stderr)
        sys.exit(2)


def port(text):
    """Reads a port number of a flag."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port; write a number from 1 to 65535")
    return int(text)


def number(kind, least, most):
    """A reader of numbers from `least` to `most`, of the type `kind`."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {least} to {most}")
        return value

    return read


def numbers(kind, least):
    """A reader of lists of numbers like 2,32, none of them below `least`."""

    def read(text):
        try:
            values = [kind(item) for item in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers from {least} up, like 1,4")
        return values

    return read


def names(known):
    """A reader of lists of names, all of them in `known`."""

    def read(text):
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is not known; there are: {', '.join(known)}")
        return text.split(",")

    return read


# Running -----------------------------------------------------------------------------------------------------------


def run(command, what=None):
    """Runs a step to its end. What it prints goes to standard error, so that the user sees it move."""
    command = [str(word) for word in command]
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
        raise Failure(f"{what or ' '.join(command)} failed (see above)")


def output(command, **more):
    """What a short step prints on standard output; what it says when it fails becomes the Failure."""
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main(script, at_end=lambda: None):
    """Runs a script: a Failure and an interruption are one line, and `at_end` runs whatever happens."""
    # Ends everything on `kill` and with its terminal too, not only on Ctrl-C.
    for ends in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, lambda received, _: sys.exit(128 + received))
    try:
        status = script()
    except Failure as failure:
        say(failure)
        status = 1
    except KeyboardInterrupt:
        say("interrupted")
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # Who reads has had enough, as `| head` does. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    finally:
        at_end()
    sys.exit(status or 0)

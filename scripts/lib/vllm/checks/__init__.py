"""The checks, in the order in which they are run."""

from . import chats, bodies, stored, load, lora, sleep, faults, full, processes, beside  # noqa: F401, I001 - the order of the checks

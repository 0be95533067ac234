"""What a build of the module that reads the clock logs of its steps and host calls."""

import json
import re
import time

from .common import Failure

# A line that the timed module logs each second: of each lap whose time it is, its name, how often it was, and its nanoseconds.
LAPS_LINE = re.compile(r"warmpath: laps (\[.*\])")
HOST, MODULE = "Host", "Module"
# The lap of nothing at all: what reading the clock puts into each of the others.
EMPTY = ("Nobody", "empty")
# The lap that each request has once.
ONCE = (MODULE, "parse")
# The module's own code that has no lap of its own.
REST = "rest"


def laps(process):
    """What the timed module has logged of the last load: calls and microseconds per request, by whose time it is and by lap."""
    time.sleep(1.1)
    # The first line is of the first second, when nothing is compiled yet, or of the load before.
    lines = LAPS_LINE.findall(process.said())[1:]
    sums = {}
    for whose, name, count, nanoseconds in (lap for line in lines for lap in json.loads(line)):
        before = sums.get((whose, name), (0, 0))
        sums[whose, name] = (before[0] + count, before[1] + nanoseconds)
    if ONCE not in sums:
        raise Failure("the timed module has not logged its laps: the load must take at least two seconds")
    requests, reading = sums[ONCE][0], sums[EMPTY][1] / sums[EMPTY][0]
    found = {HOST: {}, MODULE: {}}
    for (whose, name), (count, total) in sums.items():
        if whose in found:
            found[whose][name] = (count / requests, (total - count * reading) / requests / 1000)
    return found

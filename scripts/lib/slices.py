"""One Envoy that does a thing in some slices of time and leaves it out in others: what the thing costs per request."""

import calendar
import contextlib
import math
import os
import re
import time
from bisect import bisect_right
from dataclasses import dataclass

from .common import Failure

# As in src/wasm/src/blind.rs.
SLICE_NS = 20_000_000
GOLDEN, BITS = 0x9E37_79B9_7F4A_7C15, 64
# A reading that comes later than this after its slice's end counts for none.
LATE_NS = 1_000_000
# Slices to each side with which a slice is compared: short beside what disturbs a machine.
AROUND = 20
# A slice that takes so much longer or shorter than those around it was disturbed.
ODD = 0.3
# Milliseconds that the access log gives.
STARTED = re.compile(rb'"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z"')


def kind_of(slice_number, kinds):
    """Which of so many kinds the slice is of, counted from 0."""
    return ((slice_number * GOLDEN) % (1 << BITS) >> 32) % kinds


def read(process, seconds, moved=lambda _: None):
    """Reads the CPU time of a process at the end of each slice: (time, CPU time) of each, in nanoseconds; `moved` is told the
    share of the time that is over, once per second."""
    # The clock of a process, as `clock_getcpuclockid` has it.
    clock = (~process.pid << 3) | 2
    readings, first = [], time.monotonic_ns() // SLICE_NS + 1
    count = int(seconds * 1e9 / SLICE_NS)
    for nth in range(count):
        time.sleep(max(0, (first + nth) * SLICE_NS - time.monotonic_ns()) / 1e9)
        readings.append((time.monotonic_ns(), time.clock_gettime_ns(clock)))
        if nth % 50 == 49 or nth == count - 1:
            moved((nth + 1) / count)
    return readings


def started(log, mark):
    """When the requests of an access log came, on the clock of `read`, in order, in nanoseconds: all, and those whose line has
    the mark."""
    offset, second, base = time.time_ns() - time.monotonic_ns(), None, 0
    times, marked = [], []
    with open(log, "rb") as lines:
        for line in lines:
            found = STARTED.search(line)
            if found:
                if found[1] != second:
                    second = found[1]
                    base = utc_ns(second.decode()) - offset
                # In the middle of its millisecond.
                times.append(base + int(found[2]) * 1_000_000 + 500_000)
                if mark in line:
                    marked.append(times[-1])
    return sorted(times), sorted(marked)


def utc_ns(second):
    """Nanoseconds since the epoch of a second like 2026-11-29T12:00:00."""
    return calendar.timegm(time.strptime(second, "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000


@dataclass
class Slice:
    """Requests of a slice, CPU time per request in microseconds, and its kind."""

    requests: int
    each: float
    kind: int


def slices(readings, times, kinds):
    """The slices between readings, without those that were read too late."""
    found = []
    for (start, cpu), (end, cpu_after) in zip(readings, readings[1:]):
        # What is between two readings is the slice that the first of them has begun.
        requests = bisect_right(times, end) - bisect_right(times, start)
        late = max(start % SLICE_NS, end % SLICE_NS) > LATE_NS or end - start > SLICE_NS + LATE_NS
        if requests > 0 and not late:
            found.append(Slice(requests, (cpu_after - cpu) / 1e3 / requests, kind_of(start // SLICE_NS, kinds)))
    return found


def must_be_kept(readings, marked, kinds):
    """Fails unless nearly all marked requests came in slices of kind 0: else the process goes by other slices than these."""
    of_kind_0 = sum(
        bisect_right(marked, end) - bisect_right(marked, start)
        for (start, _), (end, _) in zip(readings, readings[1:])
        if kind_of(start // SLICE_NS, kinds) == 0
    )
    among = bisect_right(marked, readings[-1][0]) - bisect_right(marked, readings[0][0])
    if of_kind_0 < 0.8 * among or among == 0:
        raise Failure(
            f"only {of_kind_0} of {among} observed requests came when all is observed: the module keeps other slices"
        )


def differences(found, kinds):
    """What the kinds from 1 on take less than kind 0 per request: microseconds and standard error of each."""
    return [difference([each for each in found if each.kind in (0, kind)], kind) for kind in range(1, kinds)]


def difference(found, kind):
    """What one of two kinds takes less than the other per request: microseconds and standard error. Each slice is compared with
    those around it, corrected for the kinds that are there: least squares, weighted by requests."""
    rows = []
    for nth, slice_ in enumerate(found):
        near = found[max(0, nth - AROUND) : nth + AROUND + 1]
        weight = sum(each.requests for each in near)
        mean = sum(each.each * each.requests for each in near) / weight
        share = sum(each.requests for each in near if each.kind == kind) / weight
        if abs(slice_.each / mean - 1) <= ODD:
            rows.append((slice_.requests, (slice_.kind == kind) - share, slice_.each - mean))
    squares = sum(n * x * x for n, x, _ in rows)
    slope = sum(n * x * y for n, x, y in rows) / squares
    variance = sum(n * (y - slope * x) ** 2 for n, x, y in rows) / (len(rows) - 1)
    return -slope, math.sqrt(variance / squares)


def first_in_line():
    """Lets this thread run as soon as it is to, where the system allows that: a late reading is lost."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

"""What measurements of gateways say: tables, a verdict, and an account of what Warmpath adds."""

import statistics

from .contenders import DESTINATION, GATEWAYS, NAMING, NOTHING, PEERS, PLAIN, PROFILE, TITLES, WARMPATH
from .laps import HOST, MODULE, REST
from .machine import machine

# A CPU that others used for more than this share of a measurement makes its numbers doubtful.
DISTURBED = 0.10
# Below this share of its CPU a gateway waited for the load, and its requests per second are those of the load.
SATURATED = 0.95
# What Warmpath must reach under load, by size of body in KiB: CPU that it adds to plain Envoy, in microseconds, and what it aims
# at; requests per second, times those of the better stand-alone router. All with 16 connections.
MOST_ADDED_US = {2: (40, 30), 32: (55, 45), 256: (350, 300)}
LEAST_TIMES_RPS = {2: (1.5, 2.0), 32: (1.8, 2.0)}
ROUNDS_OF_A_VERDICT = 5
CONNECTIONS_OF_A_VERDICT = 16
# Laps of fewer microseconds per request are not worth a line.
LEAST_SHOWN = 0.05


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summarize(setup, samples):
    """For each size, number of connections and gateway: each number, and against plain Envoy in the same round."""
    rows = []
    for (body, connections, name), rounds in samples.items():
        plain = samples[(body, connections, PLAIN)]
        row = {"body_kib": body, "connections": connections, "gateway": name, "rounds": len(rounds)}
        for key in ("cpu_us", "rps", "p50_us", "p99_us", "cpu_share", "disturbed"):
            row[key] = spread(sample[key] for sample in rounds.values())
        for key in ("cpu_us", "p50_us", "p99_us"):
            row[f"{key}_added"] = spread(sample[key] - plain[nth][key] for nth, sample in rounds.items())
        for key in ("cpu_us", "rps", "p50_us", "p99_us"):
            row[f"{key}_ratio"] = spread(sample[key] / plain[nth][key] for nth, sample in rounds.items())
        rows.append(row)
    order = {name: at for at, name in enumerate(GATEWAYS)}
    rows.sort(key=lambda row: (setup.options.bodies.index(row["body_kib"]), row["connections"], order[row["gateway"]]))
    return rows


def shown(spread, form="{:.0f}"):
    one = form.format
    return f"{one(spread['median'])} ({one(spread['least'])}-{one(spread['most'])})"


def markdown(setup, rows):
    where = machine()
    lines = [
        f"Envoy {setup.envoy[1]} with one worker; {peers_text(setup.names)}{setup.options.pods} instant pods, "
        f"{f'answers streamed in {setup.options.stream} events' if setup.options.stream else 'whole answers'}; "
        f"all log at level {setup.options.log_level}. {where['cpu']}, one CPU for the gateway and one for load and backend. Median of {setup.options.rounds} rounds of "
        f"{setup.options.seconds:g} s each (least-most); commit {where['commit']}.",
        "",
        "| body | connections | gateway | CPU per request, us | added to Envoy, us | to Envoy | requests/s | to Envoy | p50, us | to Envoy | p99, us | to Envoy |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        plain = row["gateway"] == PLAIN
        lines.append(
            f"| {row['body_kib']:g} KiB | {row['connections']} | {TITLES[row['gateway']]} | {shown(row['cpu_us'], '{:.1f}')} | "
            f"{'' if plain else shown(row['cpu_us_added'], '{:.1f}')} | {'' if plain else shown(row['cpu_us_ratio'], '{:.2f}')} | "
            f"{shown(row['rps'])} | {'' if plain else shown(row['rps_ratio'], '{:.2f}')} | "
            f"{shown(row['p50_us'])} | {'' if plain else shown(row['p50_us_ratio'], '{:.2f}')} | {shown(row['p99_us'])} | "
            f"{'' if plain else shown(row['p99_us_ratio'], '{:.2f}')} |"
        )
    unsaturated = [row for row in rows if row["connections"] > 1 and row["cpu_share"]["median"] < SATURATED]
    if unsaturated:
        names = ", ".join(f"{TITLES[row['gateway']]} at {row['body_kib']:g} KiB" for row in unsaturated)
        lines += [
            "",
            f"Not at the limit of its CPU with {unsaturated[0]['connections']} connections, so that its requests/s are the load's: {names}.",
        ]
    disturbed = [row for row in rows if row["disturbed"]["median"] > DISTURBED]
    if disturbed:
        lines += [
            "",
            f"Other processes used more than {DISTURBED:.0%} of the gateway's CPU in {len(disturbed)} of these rows.",
        ]
    return "\n".join(lines) + "\n"


def verdict(setup, rows):
    """What Warmpath must reach, line by line; empty where too little was measured to say."""
    found = {(row["body_kib"], row["connections"], row["gateway"]): row for row in rows}
    loaded = max(setup.options.connections) >= CONNECTIONS_OF_A_VERDICT
    if setup.options.stream or not loaded or min(row["rounds"] for row in rows) < ROUNDS_OF_A_VERDICT:
        return ""
    lines = ["", "| what | must be | aim | is | |", "| --- | ---: | ---: | ---: | --- |"]

    def line(what, must, aim, value, good, form):
        lines.append(f"| {what} | {must} | {aim} | {form.format(value)} | {'reached' if good else 'MISSED'} |")

    for (body, connections, name), row in found.items():
        if name != WARMPATH or connections != max(setup.options.connections):
            continue
        where = f"{body:g} KiB, {connections} connections"
        if body in MOST_ADDED_US:
            must, aim = MOST_ADDED_US[body]
            added = row["cpu_us_added"]["median"]
            line(f"CPU added to Envoy, {where}", f"{must} us", f"{aim} us", added, added <= must, "{:.1f} us")
        peers = [found[key] for peer in PEERS if (key := (body, connections, peer)) in found]
        if not peers:
            continue
        if body in LEAST_TIMES_RPS:
            must, aim = LEAST_TIMES_RPS[body]
            times = row["rps"]["median"] / max(peer["rps"]["median"] for peer in peers)
            line(f"requests/s to the better router, {where}", f"{must}x", f"{aim}x", times, times >= must, "{:.2f}x")
        best = min(peer["p99_us"]["median"] for peer in peers)
        p99 = row["p99_us"]["median"]
        line(f"p99, {where}", f"{best:.0f} us", "", p99, p99 < best, "{:.0f} us")
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


def account(setup, samples):
    """Where the time goes that Warmpath adds to plain Envoy: a column for each size of body and number of connections."""
    cells = [(body, connections) for body in setup.options.bodies for connections in setup.options.connections]

    def median(value):
        return [statistics.median(value(cell, nth) for nth in samples[(*cell, PROFILE)]) for cell in cells]

    def cpu(name):
        return lambda cell, nth: samples[(*cell, name)][nth]["cpu_us"]

    def lap(whose, names, at):
        return lambda cell, nth: sum(
            samples[(*cell, PROFILE)][nth]["laps"][whose].get(name, (0, 0))[at] for name in names
        )

    def laps(whose):
        """All laps of a kind: the dearest first, and what is left last."""
        known = {
            name for cell in cells for sample in samples[(*cell, PROFILE)].values() for name in sample["laps"][whose]
        }
        return sorted(known, key=lambda name: (name == REST, -max(median(lap(whose, [name], 1)))))

    # What names the pods is in the price of a module that names some.
    host, own = [name for name in laps(HOST) if not name.startswith(DESTINATION)], laps(MODULE)
    names = " | ".join(f"{body:g} KiB, {connections} connections" for body, connections in cells)
    lines = ["", f"| us of CPU per request | {names} |", "| --- |" + " ---: |" * len(cells)]

    def line(title, values):
        lines.append(f"| {title} | {' | '.join(f'{value:.1f}' for value in values)} |")

    line("plain Envoy", median(cpu(PLAIN)))
    line("**Warmpath adds**", median(lambda cell, nth: cpu(WARMPATH)(cell, nth) - cpu(PLAIN)(cell, nth)))
    line("**a module that only names pods**", median(lambda cell, nth: cpu(NAMING)(cell, nth) - cpu(PLAIN)(cell, nth)))
    line("a module that does nothing", median(lambda cell, nth: cpu(NOTHING)(cell, nth) - cpu(PLAIN)(cell, nth)))
    line(
        "that waits for the body, and sets three headers",
        median(lambda cell, nth: cpu(NAMING)(cell, nth) - cpu(NOTHING)(cell, nth)),
    )
    line("**other calls of the host**", median(lap(HOST, host, 1)))
    for name in host:
        took = median(lap(HOST, [name], 1))
        if max(took) >= LEAST_SHOWN:
            calls = max(median(lap(HOST, [name], 0)))
            line(f"{name}, {'less than 0.1' if calls < 0.1 else f'{calls:.1f}'} per request", took)
    line("**the module's own code**", median(lap(MODULE, own, 1)))
    for name in own:
        line(name, median(lap(MODULE, [name], 1)))

    def unaccounted(cell, nth):
        laps_of_both = lap(HOST, host, 1)(cell, nth) + lap(MODULE, own, 1)(cell, nth)
        return cpu(WARMPATH)(cell, nth) - cpu(NAMING)(cell, nth) - laps_of_both

    line("**the rest**: ways into the module, and slower caches", median(unaccounted))
    return "\n".join(lines) + "\n"


def peers_text(measured):
    """The stand-alone routers that were measured."""
    named = [f"{name} {version}" for name, version in PEERS.items() if name in measured]
    return f"{', '.join(named)} with policy cache_aware; " if named else ""

# SPDX-License-Identifier: Apache-2.0
"""What `make bench` found, as lines of one table: what was measured, by us, beside whom, and what was to be reached.

The terminal's table, README's (markdown.py) and the pictures (plot.py) are made of it. What is not measured is a line too.
"""
import collections

# Contenders that are ours, and what tells them apart where there are several.
OURS = {"penstock": "", "penstock, ebpf": "ebpf", "penstock, tproxy": "tproxy", "a proxy exists": ""}
HAND = {"TPROXY + socket match": "TPROXY after sockets"}  # the others are called what they are

# (part of the run, row of bench.json, contender or None: all of them beside each other, what the table calls it)
ROWS = [
    ("verdict", "verdict, established connection", None, "verdict, established connection, 1 … 100,000 rules"),
    ("verdict", "verdict, new connection", None, "verdict, new connection, both directions judged, 1 … 100,000 rules"),
    ("filter", "filtered veth, 1 rules", None, "packets through a filtered veth, 1 rule"),
    ("filter", "filtered veth, 1,000 rules", None, "packets through a filtered veth, 1,000 rules"),
    ("intercept", "intercept-cps, 1 rule", None, "connections handed over a second, 1 rule"),
    ("intercept", "intercept-cps, 1,000 rules", None, "connections handed over a second, 1,000 rules"),
    ("intercept", "intercept-latency p50, 1 rule", None, "connect time at the proxy, 1 rule, p50"),
    ("intercept", "intercept-latency p99, 1 rule", None, "connect time at the proxy, 1 rule, p99"),
    ("intercept", "intercept-latency p50, 1,000 rules", None, "connect time at the proxy, 1,000 rules, p50"),
    ("intercept", "intercept-latency p99, 1,000 rules", None, "connect time at the proxy, 1,000 rules, p99"),
    ("intercept", "intercept-machine-CPU, 1 rule", None, "CPU time of the machine, a connection, 1 rule"),
    ("intercept", "intercept-machine-CPU, 1,000 rules", None, "CPU time of the machine, a connection, 1,000 rules"),
    ("datagrams", "intercept-datagrams, 1 rule", None, "datagrams handed over, 1 rule"),
    ("datagrams", "intercept-datagrams, 1,000 rules", None, "datagrams handed over, 1,000 rules"),
    ("relay", "relay-cps, penstock-relay", None, "penstock-relay, connections a second"),
    ("relay", "relay-latency p50, penstock-relay", None, "penstock-relay, connect time, p50"),
    ("relay", "relay-latency p99, penstock-relay", None, "penstock-relay, connect time, p99"),
    ("relay", "relay-machine-CPU, penstock-relay", None, "penstock-relay, CPU time of the machine, a connection"),
    ("relay", "relay-bulk, penstock-relay", None, "penstock-relay, one connection that sends"),
    ("relay", "relay-cps, HAProxy", None, "HAProxy, connections a second"),
    ("relay", "relay-latency p50, HAProxy", None, "HAProxy, connect time, p50"),
    ("relay", "relay-latency p99, HAProxy", None, "HAProxy, connect time, p99"),
    ("relay", "relay-machine-CPU, HAProxy", None, "HAProxy, CPU time of the machine, a connection"),
    ("relay", "relay-bulk, HAProxy", None, "HAProxy, one connection that sends"),
    ("network", "to-network cost, uplink to a pod", None, "traffic at an uplink that is none of a proxy's"),
    ("network", "to-network cost, a proxy exists", "established, from_network", "a packet of such traffic, established connection"),
    ("network", "to-network cost, a proxy exists", "new, from_network", "a packet of such traffic, new connection"),
    ("cluster", "first PUT, 20 local pods", "programs attached", "20 local pods, from the PUT until programs are attached"),
    ("cluster", "PUT → enforced at 10,000 pods", "one Pod, p50", "one Pod PUT → enforced at 10,000 pods, p50"),
    ("cluster", "PUT → enforced at 10,000 pods", "one Pod, p99", "one Pod PUT → enforced at 10,000 pods, p99"),
    ("cluster", "PUT → enforced at 10,000 pods", "one NetworkPolicy, p50", "one NetworkPolicy PUT → enforced at 10,000 pods, p50"),
    ("cluster", "PUT → enforced at 10,000 pods", "one NetworkPolicy, p99", "one NetworkPolicy PUT → enforced at 10,000 pods, p99"),
    ("cluster", "whole state, 10,000 pods", None, "whole state of 10,000 pods and 1,000 policies → enforced"),
    ("cluster", "resident memory", "idle", "resident memory, idle"),
    ("cluster", "resident memory", "10,000 pods", "resident memory, 10,000 pods"),
    ("cluster", "restart, 10,000 pods", "time to ready", "restart at 10,000 pods, until ready"),
    ("cluster", "restart, 10,000 pods", "segments lost", "restart at 10,000 pods, segments lost meanwhile"),
    ("cluster", "restart, 10,000 pods", "connections broken", "restart at 10,000 pods, connections broken or refused meanwhile"),
    ("huge", "whole state, 100,000 pods", None, "whole state of 100,000 pods and 1,000 policies → enforced"),
    ("huge", "resident memory", "100,000 pods", "resident memory, 100,000 pods"),
]
# Only in bench.json: they explain another row.
ASIDE = {("to-network cost, a proxy exists", name) for name in (
    "established, to_workload", "elsewhere, from_network", "established, to_network")}
# Not in README's table.
DETAILS = ("relay-latency", "relay-machine-CPU", "intercept-machine-CPU, 1,000 rules")
# What is to be reached, and nobody measures.
NEVER = [("XDP drop, 1 and 1,000,000 networks", "this build has no NodeFilter: nothing of it is at XDP"),
         ("resident memory beside Cilium's agent", "that one needs a whole cluster to run in")]

Line = collections.namedtuple("Line", "title ours beside goal met why", defaults=(None,))


def number(value):
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def is_met(goal, value):
    sign, bound = goal.split()
    return value >= float(bound) if sign == "≥" else value <= float(bound)


def contenders(figures):
    """Ours and the others of a row: {name: value} each, in order."""
    ours = {f["contender"]: f["value"] for f in figures if f["contender"] in OURS}
    return ours, {f["contender"]: f["value"] for f in figures if f["contender"] not in OURS}


def goals(figures):
    """{(ours, another): what is to be reached}: a figure of ours names the other in `against`, one of another itself."""
    ours, _ = contenders(figures)
    return {(one, f["against"]): f["goal"] for f in figures if f["goal"] and f["against"]
            for one in ([f["contender"]] if f["contender"] in OURS else ours)}


def compared(title, figures):
    """Ours beside everybody else."""
    unit = figures[0]["unit"]
    ours, others = contenders(figures)
    text = ", ".join(f"{OURS[name]} {number(value)}".strip() for name, value in ours.items())
    beside = [f"{HAND.get(name, name)} {number(value)} ({', '.join(f'{one / value:.2f} ×' for one in ours.values())})"
              for name, value in others.items()]
    wanted = goals(figures)
    met = all(is_met(goal, ours[one] / others[other]) for (one, other), goal in wanted.items()) if wanted else None
    return Line(title, f"{text} {unit}", beside, goals_said(wanted, ours), met)


def goals_said(wanted, ours):
    """Who is to be beaten by how much; in parentheses by which of ours, where that is not all of them."""
    by = collections.defaultdict(list)
    for (one, other), goal in wanted.items():
        by[goal, other].append(OURS[one])
    others = collections.defaultdict(list)
    for (goal, other), names in by.items():
        others[goal].append(HAND.get(other, other) + ("" if len(names) == len(ours) else f" ({', '.join(names)})"))
    return "; ".join(f"{goal} × {', '.join(names)}" for goal, names in others.items())


def spread(title, figures):
    """The same at 1 … 100,000 rules: what counts is that it stays."""
    values, worst = [f["value"] for f in figures], max(f["ratio"] for f in figures)
    ends = list(dict.fromkeys(number(v) for v in (min(values), max(values))))
    return Line(title, f"{' – '.join(ends)} {figures[0]['unit']}", [f"≤ {worst:.2f} × 1 rule"], f"{figures[0]['goal']} × 1 rule",
                is_met(figures[0]["goal"], worst))


def alone(title, figure):
    beside = [f"{figure['ratio']:.2f} × {figure['against']}"] if figure["ratio"] is not None else []
    goal = figure["goal"]
    return Line(title, f"{number(figure['value'])} {figure['unit']}".strip(), beside, f"{goal} {figure['unit']}".strip() if goal else "",
                is_met(goal, figure["value"]) if goal else None)


def line(title, figures, contender):
    if contender is None and contenders(figures)[0]:
        return compared(title, figures)
    if figures[0]["row"].startswith("verdict"):
        return spread(title, figures)
    return alone(title, figures[0])


def lines(bench, whole=True):
    """In README's order; what bench.json has and this file does not know comes under its own name. whole: with DETAILS."""
    rows, ret = collections.defaultdict(list), []
    for figure in bench["figures"]:
        rows[figure["row"]].append(figure)
    for part, row, contender, title in ROWS:
        if not whole and row.startswith(DETAILS):
            continue
        found = [f for f in rows[row] if contender in (None, f["contender"])]
        why = bench.get("left_out", {}).get(part, "this run has no such row")
        ret.append(line(title, found, contender) if found else Line(title, "", [], "", None, why))
    known = {row for _, row, _, _ in ROWS}
    ret += [alone(f"{row}, {figure['contender']}", figure) for row, figures in rows.items() for figure in figures
            if (row, figure["contender"]) not in ASIDE and row not in known]
    return ret + [Line(title, "", [], "", None, why) for title, why in NEVER]


def text(bench):
    """For a terminal."""
    table = [("", "penstock", "beside it", "to reach", "")]
    for one in lines(bench):
        if one.why:
            table.append((one.title, f"not measured: {one.why}", "", "", ""))
            continue
        first, *more = one.beside or [""]
        table.append((one.title, one.ours, first, one.goal, {None: "", True: "reached", False: "missed"}[one.met]))
        table += [("", "", other, "", "") for other in more]
    widths = [max(len(row[i]) for row in table if any(row[i + 1:]) or i in (0, 4)) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)

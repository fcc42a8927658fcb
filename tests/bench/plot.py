#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `make bench` found: bench-NAME.svg beside bench.json. Legible on a light and on a dark page.

    tests/bench/plot.py [build/bench.json]
"""
import json
import math
import os
import sys
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402

STYLE = """
svg { --page: #ffffff; --ink: #1b1f24; --faint: #59636e; --line: #d5dae0; --ours: #1f6feb; --second: #0a8f6c; --other: #a5afba }
@media (prefers-color-scheme: dark) {
svg { --page: #0d1117; --ink: #e6edf3; --faint: #9aa4af; --line: #30363d; --ours: #58a6ff; --second: #3fbf96; --other: #5b6570 } }
text { font: 13px system-ui, sans-serif; fill: var(--ink) } .title { font-size: 16px; font-weight: 600 } .row { font-weight: 600 }
.faint { fill: var(--faint) } .page { fill: var(--page) } .ours { fill: var(--ours) } .other { fill: var(--other) }
.grid { stroke: var(--line) } .line { fill: none; stroke-width: 2 } .first { stroke: var(--ours) } .second { stroke: var(--second) }
.dot-first { fill: var(--ours) } .dot-second { fill: var(--second) }
"""
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 760, 180, 190, 52, 18, 6
LESS_IS_BETTER = ("µs", "ms", "MiB")  # units begin so

# name, title, rows side by side; a row has its own scale, for its own unit
BARS = [
    ("filter", "Packets through a filtered veth", [
        ("filtered veth, 1 rules", "1 rule"), ("filtered veth, 1,000 rules", "1,000 rules")]),
    ("intercept", "Connections handed to a proxy on the node", [
        ("intercept-cps, 1 rule", "connections a second, 1 rule"), ("intercept-cps, 1,000 rules", "connections a second, 1,000 rules"),
        ("intercept-latency p50, 1 rule", "connect time, 1 rule, p50"), ("intercept-latency p99, 1 rule", "connect time, 1 rule, p99"),
        ("intercept-machine-CPU, 1 rule", "CPU time of the machine, 1 rule")]),
    ("datagrams", "Datagrams handed to a proxy on the node", [
        ("intercept-datagrams, 1 rule", "1 rule"), ("intercept-datagrams, 1,000 rules", "1,000 rules")]),
    ("relay", "Through whole proxies", [
        ("relay-cps, penstock-relay", "penstock-relay, connections"), ("relay-bulk, penstock-relay", "penstock-relay, bytes"),
        ("relay-cps, HAProxy", "HAProxy, connections"), ("relay-bulk, HAProxy", "HAProxy, bytes")]),
    ("network", "Traffic at an uplink that is none of a proxy's", [("to-network cost, uplink to a pod", "uplink to a pod")]),
    ("cluster", "The agent at 10,000 pods", [
        ("PUT → enforced at 10,000 pods", "one object PUT → enforced"), ("resident memory", "resident memory")]),
]


def text(x, y, what, classes="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">{escape(what)}</text>'


def page(title, machine, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
            f"<title>{escape(title)}</title><style>{STYLE}</style>"
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>{text(16, 28, title, "title")}'
            + "".join(parts) + text(16, height - 12, machine, "faint") + "</svg>\n")


# ---- bars: each contender of a row beside the others ----

def bars(figures, title, y):
    """The parts of one row, and where the next begins. Without another's to compare with, all are ours."""
    values = {f["contender"]: f["value"] for f in figures}
    ours, _ = report.contenders(figures)
    most = max(values.values()) or 1
    unit = figures[0]["unit"]
    parts = [text(16, y + 14, f"{title}, {unit}{': less is better' if unit.startswith(LESS_IS_BETTER) else ''}", "row")]
    y += 24
    for name, value in values.items():
        width = (WIDTH - LEFT - RIGHT) * value / most
        label = report.HAND.get(name, name)
        parts += [text(LEFT - 8, y + 13, label, "", "end"),
                  f'<rect class="{"ours" if name in ours or not ours else "other"}" x="{LEFT}" y="{y}" width="{max(width, 1):.1f}" '
                  f'height="{BAR}" rx="2"><title>{escape(f"{label}: {value:,.2f}")}</title></rect>',
                  text(LEFT + width + 6, y + 13, beside(name, value, values, ours), "faint")]
        y += BAR + GAP
    return parts, y + 14


def beside(name, value, values, ours):
    """The figure, and of another's how many times that ours is."""
    if not ours or name in ours:
        return report.number(value)
    return f"{report.number(value)} ({', '.join(f'{values[one] / value:.2f} ×' for one in ours)})"


def bar_page(title, rows, bench):
    parts, y, compared = [], TOP, False
    for row, name in rows:
        figures = [f for f in bench["figures"] if f["row"] == row]
        if figures:
            more, y = bars(figures, name, y)
            parts += more
            compared |= all(report.contenders(figures))
    return page(title, footnote(bench, compared), y + 26, parts) if parts else None


def footnote(bench, compared=False):
    return f"{bench['machine']}; median of {bench['rounds']} rounds" + ("; × is ours divided by theirs" if compared else "")


# ---- the verdict's cost by number of rules ----

def verdict_page(bench):
    lines = {}
    for f in bench["figures"]:
        if f["row"].startswith("verdict, "):
            count = int(f["contender"].split()[0].replace(",", ""))
            lines.setdefault(f["row"].removeprefix("verdict, "), []).append((count, f["value"]))
    if not lines:
        return None
    height, bottom = 360, 300
    step = 50 * math.ceil(max(value for points in lines.values() for _, value in points) / 200)
    most = 4 * step
    counts = sorted({count for points in lines.values() for count, _ in points})
    span = math.log10(max(counts[-1], 10))

    def place(count, value):
        return 64 + (WIDTH - 64 - RIGHT) * math.log10(count) / span, bottom - (bottom - TOP) * value / most
    parts = []
    for at in range(0, most + 1, step):
        x, y = place(1, at)
        parts += [f'<line class="grid" x1="{x}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>',
                  text(x - 8, y + 4, f"{at}", "faint", "end")]
    parts += [text(place(count, 0)[0], bottom + 18, f"{count:,}", "faint", "middle") for count in counts]
    for (name, points), kind in zip(sorted(lines.items()), ("first", "second")):
        places = [place(*point) for point in sorted(points)]
        parts.append(f'<polyline class="line {kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        parts += [f'<circle class="dot-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        parts.append(text(places[-1][0] + 8, places[-1][1] + 4, f"{name}: {report.number(sorted(points)[-1][1])}"))
    return page("What a packet's verdict costs, in ns, by the number of rules", footnote(bench), height, parts)


# ---- all ----

def pages(bench):
    """{name: SVG}; what was not measured has no picture."""
    made = {"verdict": verdict_page(bench), **{name: bar_page(title, rows, bench) for name, title, rows in BARS}}
    return {name: svg for name, svg in made.items() if svg}


def write(bench, directory):
    """Returns the names of the files."""
    paths = []
    for name, svg in pages(bench).items():
        paths.append(os.path.join(directory, f"bench-{name}.svg"))
        with open(paths[-1], "w") as file:
            file.write(svg)
    return paths


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "build/bench.json"
    with open(path) as file:
        print("\n".join(write(json.load(file), os.path.dirname(path) or ".")))


if __name__ == "__main__":
    main()

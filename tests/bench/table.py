# SPDX-License-Identifier: Apache-2.0
"""What all rows share: how often, what is printed and kept, and what counts of many runs."""
import os

import kernel

ROUNDS = int(os.environ.get("ROUNDS", "3"))
figures = []


def figure(row, contender, value, unit, against=None, ratio=None, goal=None):
    """ratio: ours divided by that of `against`."""
    figures.append({"row": row, "contender": contender, "value": value, "unit": unit, "against": against, "ratio": ratio,
                    "goal": goal})
    text = f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
    beside = f"{ratio:6.2f} × {against}" if ratio is not None else ""
    print(f"  {row:<34} {contender:<26} {text:>12} {unit:<10} {beside:<34} {goal or ''}", flush=True)


def best_run(program, packet, ifindex, **options):
    """The least of many short runs: what disturbs a run only ever adds to it."""
    return min(kernel.run_skb(program, packet, ifindex, repeat=30_000, **options)[1] for _ in range(8 * ROUNDS))


def peer_blocks(count, own):
    """`count` single addresses, `own` last: a list has to be walked to its end."""
    blocks = [f"172.{16 + (i >> 16)}.{i >> 8 & 255}.{i & 255}" for i in range(count - 1)]
    return [*blocks, own]

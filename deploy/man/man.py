#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Manual pages from what there is: penstockd(8) and penstock-relay(1) from --help, penstock.yaml(5) from its reference.

  man.py penstockd|penstock-relay VERSION < HELP     the text of --help
  man.py penstock.yaml VERSION < api/configuration.md
"""
import re
import sys

PAGES = {
    "penstockd": (8, "the node agent of Penstock", [
        ("SIGNALS", [("SIGTERM, SIGINT", "stop the process and leave the data path enforcing"),
                     ("SIGHUP", "reads the configuration again: log, engine; tries the engines again when it is auto")]),
        ("FILES", [("/etc/penstock/penstock.yaml", "the configuration, see penstock.yaml(5)"),
                   ("/run/penstock/penstock.sock", "the API: who can open it is admin"),
                   ("/var/lib/penstock/penstock.db", "what is wanted"),
                   ("/sys/fs/bpf/penstock", "programs, maps and links, pinned")]),
        ("EXIT STATUS", [("0", "done"), ("1", "it failed, and said why"), ("2", "wrong usage or configuration")]),
    ], "penstock(1), penstock.yaml(5), penstock-relay(1)"),
    "penstock-relay": (1, "a transparent relay for connections that penstockd hands over", [], "penstockd(8), penstock(1)"),
    "penstock.yaml": (5, "configuration of penstockd", [], "penstockd(8)"),
}


def roff(text):
    """Nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def items(rows):
    return "".join(f".TP\n\\fB{roff(name)}\\fR\n{roff(text)}\n" for name, text in rows)


def help_parts(text):
    """The usage, the paragraphs, and the options, from a --help."""
    usage, options, paragraphs, current = [], [], [[]], None
    for line in text.splitlines():
        option = re.match(r"  (--?\S.*?)(?:  +(.*))?$", line)
        if re.match(r"(?i)usage: ", line):
            usage.append(line.split(": ", 1)[1])
        elif option:
            current = [option[1], [option[2] or ""]]
            options.append(current)
        elif current and line.startswith("   "):
            current[1].append(line.strip())
        elif line.strip():
            current = None
            paragraphs[-1].append(line.strip())
        else:
            paragraphs.append([])
    return usage, [" ".join(p) for p in paragraphs if p], [(name, " ".join(text)) for name, text in options]


def of_help(name, text):
    usage, paragraphs, options = help_parts(text)
    return (f".SH SYNOPSIS\n\\fB{roff(usage[0])}\\fR\n.SH DESCRIPTION\n" + ".PP\n".join(roff(p) + "\n" for p in paragraphs) +
            ".SH OPTIONS\n" + items(options))


def plain(markdown):
    text = re.sub(r" ?\(\[[^]]*\]\(#[^)]*\)\)", "", markdown)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def of_reference(text):
    rows = re.findall(r"^\| `([a-zA-Z.]+)` \| `([^`]*)` \|(.*)\|$", text, re.M)
    lead = text.split("\n", 2)[2].split("\n\n| key", 1)[0]
    return (".SH SYNOPSIS\n\\fB/etc/penstock/penstock.yaml\\fR\n.SH DESCRIPTION\n" + roff(plain(lead)) +
            "\n.SH KEYS\nA dot stands for a level of the YAML mapping.\n" +
            items((key, f"Default {default}. {plain(meaning).strip()}".strip()) for key, default, meaning in rows))


def main():
    name, version = sys.argv[1:]
    section, summary, more, see = PAGES[name]
    text = sys.stdin.read()
    body = of_reference(text) if name == "penstock.yaml" else of_help(name, text)
    print(f'.TH "{name.upper()}" {section} "" "penstock {version}" "Penstock"\n.SH NAME\n{roff(name)} \\- {roff(summary)}\n' + body +
          "".join(f".SH {title}\n" + items(rows) for title, rows in more) + f".SH SEE ALSO\n{roff(see)}")


main()

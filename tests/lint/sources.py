#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What can be judged from the text of the sources: sources.py CHECK. Says what is wrong, where, and how to mend it."""
import ast
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
C = (".c", ".h")
PAGE = (".html", ".css", ".js", ".svg")
WARN_LINES, MAX_LINES = 600, 800
APACHE, DUAL = "Apache-2.0", "GPL-2.0-only OR BSD-2-Clause"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+([<"])([^>"]+)[>"]', re.M)


def files():
    """Tracked files, and new ones that are not ignored."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return sorted(p for p in set(listed.stdout.splitlines()) if (ROOT / p).is_file())
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and "build" not in p.parts[0])


def text_of(path):
    return (ROOT / path).read_text(errors="replace")


def is_script(path):
    """With a first line that says so."""
    with (ROOT / path).open("rb") as file:
        return file.read(2) == b"#!"


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# ---- includes ----

def rules():
    rooms, libraries = {}, {}
    for line in text_of("tests/lint/includes.txt").splitlines():
        if line.strip() and not line.startswith("#"):
            left, right = line.rsplit(":", 1)
            (libraries if left.startswith("<") else rooms)[left] = right.split()
    return rooms, libraries


def below(path, room):
    return path == room or path.startswith(room + "/") or path.startswith(room) and room.endswith("/")


def room_of(path, rooms):
    return max((room for room in rooms if below(path, room)), key=len, default=None)


def check_includes():
    rooms, libraries = rules()
    for path in files():
        if not path.endswith(C):
            continue
        room = room_of(path, rooms)
        if room is None:
            yield f"{path}: its room is not in tests/lint/includes.txt: say there what it may include"
            continue
        text = text_of(path)
        for found in INCLUDE.finditer(text):
            bracket, name = found.groups()
            where = f"{path}:{line_of(text, found.start())}"
            sibling = pathlib.PurePath(path).parent / name
            if bracket == '"' and (ROOT / sibling).is_file():
                name = str(sibling)
            if bracket == '"':
                # A room is its own folder without the rooms below it that have a line of their own.
                own = room_of(name, rooms) == room and room != name
                if not own and not any(below(name, allowed) for allowed in rooms[room]):
                    yield (f'{where}: "{name}" is uphill: {room} may include {" ".join(rooms[room]) or "nobody"}; move '
                           "what is needed down, or hand it in")
                continue
            for library, allowed in libraries.items():
                if f"<{name}>".startswith(library) and not any(below(path, one) for one in allowed):
                    yield f"{where}: <{name}> belongs to {' '.join(allowed)} alone: call that room instead"


# ---- licences ----

def check_licences():
    for path in files():
        if not (path.endswith(C + PAGE + (".py", ".sh")) or path == "Makefile" or is_script(path)):
            continue
        wanted = DUAL if path.startswith("bpf/") or path.endswith(".bpf.c") else APACHE
        head = text_of(path).splitlines()[:2]
        found = [line.split("SPDX-License-Identifier:")[1].replace("*/", "").replace("-->", "").strip() for line in head
                 if "SPDX-License-Identifier:" in line]
        if found != [wanted]:
            yield f"{path}: line 1 (2 behind #! or a doctype) must be SPDX-License-Identifier: {wanted}, and is {found or 'missing'}"


# ---- words, sizes, Python ----

def check_words():
    words = re.compile(r"\b(TODO|FIX" r"ME|XXX|HACK)\b")
    for path in files():
        if path.endswith(C + PAGE + (".py", ".sh", ".yaml")) or path == "Makefile" or is_script(path):
            if path.startswith("tests/lint/"):
                continue
            for number, line in enumerate(text_of(path).splitlines(), 1):
                if words.search(line):
                    yield f"{path}:{number}: {line.strip()}: do it, or open an issue; code has no notes to self"


def check_sizes():
    for path in files():
        if path.endswith(C + PAGE + (".py",)):
            lines = text_of(path).count("\n")
            if lines > MAX_LINES:
                yield f"{path}: {lines} lines, at most {MAX_LINES}: it does more than one thing; split it"
            elif lines > WARN_LINES:
                print(f"warning: {path}: {lines} lines; a split is due at {MAX_LINES}")


def check_python():
    for path in files():
        if path.endswith(".py"):
            try:
                ast.parse(text_of(path), path)
            except SyntaxError as error:
                yield f"{path}:{error.lineno}: {error.msg}"


def check_abi():
    for path in ("bpf/abi.h",):
        text = text_of(path)
        for found in INCLUDE.finditer(text):
            if found.group(1) == '"':
                yield f"{path}: includes {found.group(2)}: both sides of the kernel share it, so it includes nothing of ours"
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        for found in re.finditer(r"^struct (ps_\w+) \{", code, re.M):
            if not re.search(rf"sizeof\(struct {found.group(1)}\) ==", code):
                yield f"{path}: struct {found.group(1)} has no PS_STATIC_ASSERT of its size"


LESSONS, SCENARIOS, SCENARIO_COUNT = "CONTRIBUTING.md", "tests/scenarios.md", 34


def check_lessons():
    """Every test that the lists of lessons and scenarios name is there, and no scenario is missing."""
    for listed in (LESSONS, SCENARIOS):
        named = re.findall(r"`(\w+/\w+\.(?:py|c))::(\w+)`", text_of(listed))
        if not named:
            yield f"{listed}: names no test"
        for path, name in named:
            if not (ROOT / "tests" / path).is_file():
                yield f"{listed}: there is no tests/{path}"
            elif not re.search(rf"^(?:def|static void) {name}\(", text_of(f"tests/{path}"), re.M):
                yield f"{listed}: tests/{path} has no {name}"
    rows = {int(number): rest for number, rest in re.findall(r"^\| (\d+) \|(.*)$", text_of(SCENARIOS), re.M)}
    for number in range(1, SCENARIO_COUNT + 1):
        if "::" not in rows.get(number, ""):
            yield f"{SCENARIOS}: scenario {number} has no test"


CHECKS = {name[len("check_"):]: check for name, check in sorted(globals().items()) if name.startswith("check_")}


def main(name):
    wrong = list(CHECKS[name]())
    for line in wrong:
        print(line)
    return bool(wrong)


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(CHECKS))
    else:
        sys.exit(main(sys.argv[1]))

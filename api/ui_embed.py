#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The files of the page (api/ui) as C strings: ui_embed.py FILE…"""
import hashlib
import os
import sys

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}
FIRST = "index.html"


def literal(data):
    """Bytes as lines of a C string. Octal escapes have three digits, so that no digit behind one belongs to it."""
    for at in range(0, len(data), 80):
        text = "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in data[at:at + 80])
        yield f'\t\t"{text}"'


def main():
    print('#include <stddef.h>\n#include "api/server/ui.h"\nconst struct ui_file ui_files[] = {')
    for path in sorted(sys.argv[1:], key=lambda one: (os.path.basename(one) != FIRST, one)):
        name = os.path.basename(path)
        with open(path, "rb") as file:
            data = file.read()
        digest = hashlib.sha256(data).hexdigest()[:16]
        print(f'\t{{"{name}", "{TYPES[os.path.splitext(name)[1]]}",')
        print("\n".join(literal(data)) + ",")
        print(f'\t\t"\\"{digest}\\""}},')
    print("\t{NULL, NULL, NULL, NULL},\n};")


if __name__ == "__main__":
    main()

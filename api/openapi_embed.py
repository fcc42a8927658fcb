#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml as a C string of JSON, for GET /openapi.json. Examples that stand in files are embedded."""
import json
import os
import sys

import yaml


def load(path):
    """The document with each externalValue, a path from the document's folder, replaced by that file's content."""
    def embed(node):
        if isinstance(node, list):
            return [embed(item) for item in node]
        if not isinstance(node, dict):
            return node
        made = {str(key): embed(value) for key, value in node.items()}
        if "externalValue" in made:
            with open(os.path.join(os.path.dirname(path), made.pop("externalValue")), encoding="utf-8") as file:
                made["value"] = json.load(file)
        return made

    with open(path, encoding="utf-8") as source:
        return embed(yaml.safe_load(source))


def main():
    text = json.dumps(load(sys.argv[1]), ensure_ascii=True, separators=(",", ":"))
    print('#include "api/server/openapi.h"\nconst char openapi_json[] =')
    for at in range(0, len(text), 100):
        part = text[at:at + 100].replace("\\", "\\\\").replace('"', '\\"')
        print(f'\t"{part}"')
    print("\t;")


if __name__ == "__main__":
    main()

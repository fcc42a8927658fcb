#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml as a C string of JSON, for GET /openapi.json."""
import json
import sys

import yaml

with open(sys.argv[1], encoding="utf-8") as source:
    text = json.dumps(yaml.safe_load(source), ensure_ascii=True, default=str)
print('#include "api/server/openapi.h"\nconst char openapi_json[] =')
for at in range(0, len(text), 100):
    part = text[at:at + 100].replace("\\", "\\\\").replace('"', '\\"')
    print(f'\t"{part}"')
print("\t;")

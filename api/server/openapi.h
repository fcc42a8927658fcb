/* SPDX-License-Identifier: Apache-2.0 */
/* api/openapi.yaml as JSON, made at build time. */
#ifndef PENSTOCK_OPENAPI_H
#define PENSTOCK_OPENAPI_H
extern const char openapi_json[];
#endif

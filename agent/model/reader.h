/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Pod is some 5 KB of text of which a few hundred bytes are read. This reader checks all of the syntax, but builds
 * values only of what the kind's schema names: several times as fast as building everything. Only for agent/model.
 */
#ifndef PENSTOCK_READER_H
#define PENSTOCK_READER_H

#include <jansson.h>
#include <stddef.h>

/*
 * The object without what its kind ignores below the top level. NULL for whatever is not worth it or is wrong: jansson
 * then reads the text, or says why not. Unlike jansson it does not see keys that stand twice in what is ignored.
 */
json_t *reader_object(const char *text, size_t length);

#endif

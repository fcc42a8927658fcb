/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says of this process, as Prometheus' clients name it. */
#ifndef PENSTOCK_PROCESS_H
#define PENSTOCK_PROCESS_H

#include "agent/base/buffer.h"

void process_render(struct buffer *out);

#endif

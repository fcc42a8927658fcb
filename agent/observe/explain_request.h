/* SPDX-License-Identifier: Apache-2.0 */
/* The body of POST /v1/explain, and whom it names. */
#ifndef PENSTOCK_EXPLAIN_REQUEST_H
#define PENSTOCK_EXPLAIN_REQUEST_H

#include "agent/base/error.h"
#include "agent/datapath/datapath.h"
#include "agent/observe/explain_past.h"
#include "agent/state/snapshot.h"

struct explain_end {
	bool given;             /* as a workload or an address; else the reason stands among the errors */
	char *namespace, *name; /* of the workload; NULL: the address */
	struct ip ip;
};
enum explain_end_name { EXPLAIN_SOURCE, EXPLAIN_DESTINATION, EXPLAIN_ENDS };
extern const char *const explain_end_names[EXPLAIN_ENDS];

struct explain_request {
	struct explain_end ends[EXPLAIN_ENDS];
	const char *protocol; /* "TCP", …; of a record also a number; NULL after an error */
	char number[4];       /* that one: no copies of this struct */
	uint16_t port;        /* 0: the protocol has none */
	uint8_t family;       /* 4, 6; 0: not said */
	bool of_past;         /* it is a flow record: */
	struct explain_past past;
};
/* Adds an error for everything that is wrong; what can be used stands in *ret either way. */
void explain_request_read(const char *body, size_t length, struct explain_request *ret, struct errors *errors);
void explain_request_clear(struct explain_request *request);

struct explain_subject {
	const struct object
		*object; /* Pod or Workload that is named or has the address; borrowed from the snapshot; or NULL */
	struct ip ip;
};
/* Names become addresses of one family. Adds an error for each name that does not. */
void explain_request_resolve(const struct explain_request *request, const struct snapshot *snapshot,
	struct explain_subject ret[EXPLAIN_ENDS], struct errors *errors);
/* ICMP is another protocol in each family. */
uint8_t explain_protocol_number(const char *protocol, uint8_t family);

#endif

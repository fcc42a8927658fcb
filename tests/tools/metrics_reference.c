/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints api/metrics.md, the reference table of all metrics, from the list that the agent renders from; with --sample a
 * page as an agent with little to say renders it, for promtool.
 */
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/observe/alerts.h"
#include "agent/observe/metrics.h"
#include "agent/observe/metrics_list.h"

static const struct {
	const char *name, *type, *labels, *help;
} metrics[] = {
#define X(id, name, type, labels, help) {name, type, labels, help},
	METRICS(X)
#undef X
};

static void reference_print(void)
{
	puts("# Metrics\n\n"
		 "`GET /metrics` in Prometheus' text format. This table is made from the list that the agent renders from\n"
		 "(`agent/observe/metrics_list.h`) by `make metrics-reference`; a test compares them.\n\n"
		 "| metric | type | labels | meaning |\n"
		 "|---|---|---|---|");
	for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++)
		printf("| `%s` | %s | %s%s%s | %s |\n", metrics[i].name, metrics[i].type, metrics[i].labels[0] ? "`" : "",
			metrics[i].labels, metrics[i].labels[0] ? "`" : "", metrics[i].help);
	puts("\nValues of the labels:\n");
	puts("- `direction`, `verdict`: as in flow records. A combination that has not occurred may be absent.");
	printf("- `reason`: ");
#define X(name, text, help) printf("%s`%s` (%s)", PS_REASON_##name ? "; " : "", text, help);
	PS_REASONS(X)
#undef X
	printf(".\n- `stage` of an apply: ");
#define X(name, label) printf("%s`%s`", APPLY_##name ? ", " : "", label);
	APPLY_STAGE_LIST(X)
#undef X
	printf(".\n- `alert`: ");
#define X(name, text, severity, help) printf("%s`%s` (%s)", ALERT_##name ? "; " : "", text, help);
	ALERTS(X)
#undef X
	printf(".\n- `what` was put back: ");
#define X(name, label, help) printf("%s`%s` (%s)", DRIFT_##name ? "; " : "", label, help);
	DRIFTS(X)
#undef X
	puts(".\n- `rule`: the rule's name, else its index, or `isolation` for what a NetworkPolicy isolates and does not "
		 "allow.\n- `kind` of `penstock_quarantined`: `Unknown` stands for every kind that is not one of ours.");
}

static void sample_print(void)
{
	struct metrics *m = metrics_new();
	struct buffer page = {0};
	metrics_apply(m, APPLY_COMPILE, 0.002, false);
	metrics_render(m, &page);
	fputs(page.data, stdout);
	buffer_free(&page);
	metrics_free(m);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--sample"))
		sample_print();
	else
		reference_print();
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compile_bench [PODS [POLICIES [NAMESPACES [NODES [unique]]]]]: what a full compile and single changes cost, in time,
 * in memory, and in entries that the kernel has to be told.
 * compile_bench blocks COUNT [EACH [LENGTH]]: the same for one workload with COUNT networks in policies of EACH rules,
 * one network a rule.
 * compile_bench services COUNT [EACH [PODS [POLICIES]]]: what COUNT Services with EACH backends cost in a cluster.
 */
#include <malloc.h>
#include <string.h>
#include <time.h>
#include "agent/compile/compiler.h"
#include "tests/tools/compile_cluster.h"

#define REPEATS 50

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static double mebibytes(void)
{
	struct mallinfo2 info = mallinfo2();
	return (double)(info.uordblks + info.hblkhd) / (1 << 20);
}

static size_t pending_clear(struct compiler *c)
{
	size_t count = 0;
	for (int id = 0; id < TABLE_COUNT; id++)
		for (int side = 0; side < 2; side++) {
			count += side ? 0 : compiler_tables(c)->table[id].pending[side].count;
			map_clear(&compiler_tables(c)->table[id].pending[side]);
		}
	return count;
}

struct sample {
	double total, worst;
	size_t writes;
	struct work before;
};

static void sample_add(struct sample *sample, struct compiler *c, double began)
{
	double took = now() - began;
	sample->total += took;
	sample->worst = took > sample->worst ? took : sample->worst;
	sample->writes += pending_clear(c);
}

static void sample_print(const char *what, const struct sample *sample, const struct compiler *c, double full)
{
	const struct work *work = compiler_work(c), *before = &sample->before;
	printf("%-28s %9.3f ms  worst %9.3f  %5.2f %%  writes %6.1f  rows %5.1f  pairs %6.1f  classes %6.1f\n", what,
		sample->total / REPEATS, sample->worst, sample->total / REPEATS / full * 100, (double)sample->writes / REPEATS,
		(double)(work->rows - before->rows) / REPEATS, (double)(work->pairs - before->pairs) / REPEATS,
		(double)(work->classes - before->classes) / REPEATS);
}

static void bench_pods(const struct cluster *cluster, struct compiler *c, bool local, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	const struct cluster_shape *shape = &cluster->shape;
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = (i / 2 * shape->nodes + (local ? 0 : 1)) % shape->pods;
		struct object *new = cluster_pod(shape, number, i % 2 ? 0 : 1);
		double began = now();
		cluster_change(c, &cluster->pods[number], new);
		sample_add(&sample, c, began);
	}
	sample_print(local ? "relabel a local pod" : "relabel a remote pod", &sample, c, full);
}

static void bench_pod_comes(const struct cluster *cluster, struct compiler *c, bool local, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	const struct cluster_shape *shape = &cluster->shape;
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = (i / 2 * shape->nodes + (local ? 0 : 1)) % shape->pods;
		struct object *pod = cluster->pods[number];
		struct change change = {.old = i % 2 ? NULL : pod, .new = i % 2 ? pod : NULL};
		double began = now();
		compiler_update(c, &change, 1, NULL);
		sample_add(&sample, c, began);
	}
	sample_print(local ? "a local pod goes, comes" : "a remote pod goes, comes", &sample, c, full);
}

static void bench_policies(const struct cluster *cluster, struct compiler *c, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = i / 2 * cluster->shape.policies / REPEATS;
		struct object *new = cluster_policy(&cluster->shape, number, i % 2 ? 8000 + number % 50 : 7777);
		double began = now();
		cluster_change(c, &cluster->policies[number], new);
		sample_add(&sample, c, began);
	}
	sample_print("change a policy", &sample, c, full);
	sample = (struct sample){.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		struct object *policy = cluster->policies[i / 2 * cluster->shape.policies / REPEATS];
		struct change change = {.old = i % 2 ? NULL : policy, .new = i % 2 ? policy : NULL};
		double began = now();
		compiler_update(c, &change, 1, NULL);
		sample_add(&sample, c, began);
	}
	sample_print("a policy goes, comes", &sample, c, full);
}

static void bench_namespaces(const struct cluster *cluster, struct compiler *c, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = i / 2 % cluster->shape.namespaces;
		char team[16];
		snprintf(team, sizeof(team), "t%u", (number + (i % 2 ? 0 : 1)) % 10);
		struct object *new = cluster_namespace(number, team);
		double began = now();
		cluster_change(c, &cluster->namespaces[number], new);
		sample_add(&sample, c, began);
	}
	sample_print("relabel a namespace", &sample, c, full);
}

static unsigned argument(int argc, char **argv, int at, unsigned other)
{
	return argc > at ? (unsigned)strtoul(argv[at], NULL, 10) : other;
}

static void tables_print(struct compiler *c)
{
	for (int id = 0; id < TABLE_COUNT; id++)
		printf("%s%s %zu", id ? ", " : "", table_infos[id].name, compiler_tables(c)->table[id].wanted.count);
	printf("; classes %zu, groups %zu, pairs %lu\n", c->classes.count, c->group_count, (unsigned long)c->work.pairs);
}

static void bench_block_changes(
	struct object **policies, unsigned count, unsigned each, unsigned length, struct compiler *c, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = i / 2 * count / REPEATS;
		struct object *new = cluster_blocks(number, each, length, i % 2 ? 0 : each / 2);
		double began = now();
		cluster_change(c, &policies[number], new);
		sample_add(&sample, c, began);
	}
	sample_print("change a policy", &sample, c, full);
	sample = (struct sample){.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		struct object *policy = policies[i / 2 * count / REPEATS];
		struct change change = {.old = i % 2 ? NULL : policy, .new = i % 2 ? policy : NULL};
		double began = now();
		compiler_update(c, &change, 1, NULL);
		sample_add(&sample, c, began);
	}
	sample_print("a policy goes, comes", &sample, c, full);
}

static void bench_blocks(unsigned blocks, unsigned each, unsigned length)
{
	unsigned count = (blocks + each - 1) / each;
	struct object **policies = mem_array(count, sizeof(*policies));
	struct change *changes = mem_array(count + 1, sizeof(*changes));
	struct object *server = cluster_blocks_subject();
	changes[0].new = server;
	for (unsigned i = 0; i < count; i++)
		changes[i + 1].new = policies[i] = cluster_blocks(i, each, length, 0);
	struct rulebook *book = rulebook_new(1);
	double before = mebibytes(), began = now();
	struct compiler *c = compiler_new("node-0", book);
	compiler_update(c, changes, count + 1, NULL);
	double full = now() - began;
	printf("%u networks of length %u in policies of %u: %.1f ms, %.1f MiB, ", blocks, length, each, full,
		mebibytes() - before);
	pending_clear(c);
	printf("%.1f MiB when written\n", mebibytes() - before);
	tables_print(c);
	bench_block_changes(policies, count, each, length, c, full);
	began = now();
	compiler_free(c);
	printf("free %.1f ms\n", now() - began);
	rulebook_free(book);
	object_put(server);
	for (unsigned i = 0; i < count; i++)
		object_put(policies[i]);
	free(policies);
	free(changes);
}

/* ---- Services ---- */

struct services {
	unsigned count, each;
	struct object **objects; /* Services, then a slice each */
};

static void services_change(const struct services *s, struct compiler *c, bool come)
{
	struct change *changes = mem_array(2 * s->count, sizeof(*changes));
	for (unsigned i = 0; i < 2 * s->count; i++)
		*(come ? &changes[i].new : &changes[i].old) = s->objects[i];
	compiler_update(c, changes, 2 * s->count, NULL);
	free(changes);
}

static void bench_slices(const struct services *s, const struct cluster_shape *shape, struct compiler *c, double full)
{
	struct sample sample = {.before = *compiler_work(c)};
	for (unsigned i = 0; i < REPEATS; i++) {
		unsigned number = i / 2 * s->count / REPEATS;
		struct object *new = cluster_slice(shape, number, s->each, i % 2 ? 0 : 1);
		double began = now();
		cluster_change(c, &s->objects[s->count + number], new);
		sample_add(&sample, c, began);
	}
	sample_print("change a slice", &sample, c, full);
}

static void bench_services(unsigned count, unsigned each, struct cluster_shape shape)
{
	struct services s = {count, each, mem_array(2 * count, sizeof(struct object *))};
	struct cluster cluster = cluster_make(shape);
	for (unsigned i = 0; i < count; i++) {
		s.objects[i] = cluster_service(&shape, i);
		s.objects[count + i] = cluster_slice(&shape, i, each, 0);
	}
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("node-0", book);
	cluster_compile(&cluster, c);
	double before = mebibytes(), began = now();
	services_change(&s, c, true);
	double full = now() - began;
	printf("%u Services of %u backends among %u pods: %.1f ms, %.1f MiB\n", count, each, shape.pods, full,
		mebibytes() - before);
	pending_clear(c);
	tables_print(c);
	bench_slices(&s, &shape, c, full);
	bench_pods(&cluster, c, false, full);
	bench_pod_comes(&cluster, c, false, full);
	bench_policies(&cluster, c, full);
	began = now();
	services_change(&s, c, false);
	printf("all of them go: %.1f ms\n", now() - began);
	compiler_free(c);
	rulebook_free(book);
	for (unsigned i = 0; i < 2 * count; i++)
		object_put(s.objects[i]);
	free(s.objects);
	cluster_free(&cluster);
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "services")) {
		struct cluster_shape cluster = {.pods = argument(argc, argv, 4, 10000),
			.policies = argument(argc, argv, 5, 1000),
			.namespaces = 100,
			.nodes = 99};
		bench_services(argument(argc, argv, 2, 0), argument(argc, argv, 3, 20), cluster);
		return 0;
	}
	if (argc > 2 && !strcmp(argv[1], "blocks")) {
		bench_blocks(argument(argc, argv, 2, 0), argument(argc, argv, 3, 1000), argument(argc, argv, 4, 32));
		return 0;
	}
	struct cluster_shape shape = {.pods = argument(argc, argv, 1, 10000),
		.policies = argument(argc, argv, 2, 1000),
		.namespaces = argument(argc, argv, 3, 100),
		.nodes = argument(argc, argv, 4, 99),
		.unique = argc > 5 && !strcmp(argv[5], "unique")};
	struct cluster cluster = cluster_make(shape);
	struct rulebook *book = rulebook_new(1);
	double before = mebibytes(), began = now();
	struct compiler *c = compiler_new("node-0", book);
	cluster_compile(&cluster, c);
	double full = now() - began;
	printf("%u pods, %u policies, %u namespaces, %u nodes%s\n", shape.pods, shape.policies, shape.namespaces,
		shape.nodes, shape.unique ? ", each pod labelled apart" : "");
	printf("full compile %.1f ms, %.1f MiB, ", full, mebibytes() - before);
	pending_clear(c);
	printf("%.1f MiB when written\n", mebibytes() - before);
	tables_print(c);
	bench_pods(&cluster, c, false, full);
	bench_pods(&cluster, c, true, full);
	bench_pod_comes(&cluster, c, false, full);
	bench_pod_comes(&cluster, c, true, full);
	bench_policies(&cluster, c, full);
	bench_namespaces(&cluster, c, full);
	began = now();
	compiler_free(c);
	printf("free %.1f ms\n", now() - began);
	rulebook_free(book);
	cluster_free(&cluster);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one change costs, counted instead of timed: a change among 10,000 pods may not do more than a hundredth of what
 * a full compile does. And what does not fit is refused.
 */
#include "tests/unit/compile_lab.h"

#include <errno.h>
#include "tests/tools/compile_cluster.h"

static const struct cluster_shape shape = {
	.pods = 10000, .policies = 1000, .namespaces = 100, .nodes = 99, .unique = false};

/* Everything that was counted; each is about as dear as the other. */
static uint64_t effort(const struct work *work)
{
	return work->groups_matched + work->terms_matched + work->profiles + work->classes + work->pairs +
		   work->case_terms + work->rows + work->rules + work->moves + work->cells + work->addresses;
}

struct cluster_lab {
	struct cluster cluster;
	struct rulebook *book;
	struct compiler *c;
	uint64_t full;
};

static int cluster_open(void **state)
{
	struct cluster_lab *lab = mem_alloc(sizeof(*lab));
	lab->cluster = cluster_make(shape);
	lab->book = rulebook_new(1);
	lab->c = compiler_new("node-0", lab->book);
	cluster_compile(&lab->cluster, lab->c);
	lab->full = effort(compiler_work(lab->c));
	*state = lab;
	return 0;
}

static int cluster_close(void **state)
{
	struct cluster_lab *lab = *state;
	compiler_free(lab->c);
	rulebook_free(lab->book);
	cluster_free(&lab->cluster);
	free(lab);
	return 0;
}

static uint64_t effort_since(const struct cluster_lab *lab, uint64_t before)
{
	return effort(compiler_work(lab->c)) - before;
}

static void one_changed_pod_costs_a_hundredth(void **state)
{
	struct cluster_lab *lab = *state;
	assert_true(lab->full > 50000);
	for (unsigned number = 0; number < 20; number++) { /* the first is local, the others are not */
		for (unsigned version = 1; version < 3; version++) {
			uint64_t before = effort(compiler_work(lab->c));
			cluster_change(lab->c, &lab->cluster.pods[number], cluster_pod(&shape, number, version % 2));
			assert_in_range(effort_since(lab, before), 1, lab->full / 100);
		}
	}
}

static void a_pod_that_comes_like_others_is_one_entry(void **state)
{
	struct cluster_lab *lab = *state;
	struct object *pod = lab->cluster.pods[777];
	struct change goes = {.old = pod}, comes = {.new = pod};
	for (int id = 0; id < TABLE_COUNT; id++)
		map_clear(&compiler_tables(lab->c)->table[id].pending[0]);
	compiler_update(lab->c, &goes, 1, NULL);
	uint64_t before = effort(compiler_work(lab->c));
	compiler_update(lab->c, &comes, 1, NULL);
	assert_in_range(effort_since(lab, before), 1, 8);
	size_t pending = 0;
	for (int id = 0; id < TABLE_COUNT; id++)
		pending += compiler_tables(lab->c)->table[id].pending[0].count;
	assert_int_equal(pending, 2); /* one an address */
}

static void one_changed_policy_costs_a_hundredth(void **state)
{
	struct cluster_lab *lab = *state;
	for (unsigned number = 0; number < 20; number++) {
		for (unsigned version = 1; version < 3; version++) {
			uint64_t before = effort(compiler_work(lab->c));
			unsigned port = version % 2 ? 7777 : 8000 + number % 50;
			cluster_change(lab->c, &lab->cluster.policies[number * 13], cluster_policy(&shape, number * 13, port));
			assert_in_range(effort_since(lab, before), 0, lab->full / 100);
		}
	}
}

static void a_policy_for_nobody_here_costs_nothing(void **state)
{
	struct cluster_lab *lab = *state;
	uint64_t before = effort(compiler_work(lab->c));
	struct object *policy = object_of(LAB_POLICY("p", "elsewhere", "'podSelector':{},'ingress':[{}]"));
	struct change change = {.new = policy};
	compiler_update(lab->c, &change, 1, NULL);
	assert_int_equal(effort_since(lab, before), 0);
	object_put(policy);
}

static void a_relabelled_namespace_costs_its_share(void **state)
{
	struct cluster_lab *lab = *state;
	uint64_t before = effort(compiler_work(lab->c));
	cluster_change(lab->c, &lab->cluster.namespaces[3], cluster_namespace(3, "t9"));
	assert_in_range(effort_since(lab, before), 1, lab->full / 30);
}

/* ---- many networks ---- */

static void blocks_put(struct compiler *c, unsigned count, unsigned each, unsigned length)
{
	struct change *changes = mem_array(count + 1, sizeof(*changes));
	changes[0].new = cluster_blocks_subject();
	for (unsigned i = 0; i < count; i++)
		changes[i + 1].new = cluster_blocks(i, each, length, 0);
	compiler_update(c, changes, count + 1, NULL);
	for (unsigned i = 0; i <= count; i++)
		object_put(changes[i].new);
	free(changes);
}

static uint64_t blocks_effort(unsigned count, unsigned length)
{
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	blocks_put(c, count, 500, length);
	assert_int_equal(compiler_tables(c)->table[TABLE_peer_row].wanted.count, count * 500);
	assert_int_equal(compiler_fits(c, NULL), 0);
	uint64_t ret = effort(compiler_work(c));
	compiler_free(c);
	rulebook_free(book);
	return ret;
}

/* On one workload, a network a rule: each class meets the rules that name it, not all of them. */
static void networks_cost_no_more_the_more_there_are(void **state)
{
	static const unsigned lengths[] = {32, 24};
	for (int i = 0; i < 2; i++) {
		uint64_t few = blocks_effort(2, lengths[i]), many = blocks_effort(16, lengths[i]);
		assert_in_range(few, 1000, 10000);
		assert_in_range(many, 8000, few * 8 + few / 10);
	}
}

/* Nor does one changed policy ask about the others' networks; but for the first one, by whose name all else is refused.
 */
static void one_changed_policy_among_many_networks_costs_its_share(void **state)
{
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	struct object *policy = cluster_blocks(7, 500, 32, 0);
	blocks_put(c, 16, 500, 32);
	for (unsigned moved = 0; moved <= 500; moved += 250) {
		uint64_t before = effort(compiler_work(c));
		cluster_change(c, &policy, cluster_blocks(7, 500, 32, moved));
		assert_in_range(effort(compiler_work(c)) - before, 500, 500 * 16);
		assert_int_equal(compiler_tables(c)->table[TABLE_peer_row].wanted.count, 8000);
		assert_int_equal(compiler_tables(c)->table[TABLE_addr4].wanted.count, 8001);
	}
	uint64_t before = effort(compiler_work(c));
	struct change gone = {.old = policy};
	compiler_update(c, &gone, 1, NULL);
	assert_in_range(effort(compiler_work(c)) - before, 500, 500 * 16);
	assert_int_equal(compiler_tables(c)->table[TABLE_peer_row].wanted.count, 7500);
	object_put(policy);
	compiler_free(c);
	rulebook_free(book);
}

/* Each network may hold any address; many of them are not compared one by one. */
static void networks_among_many_addresses_compare_each_a_few_times(void **state)
{
	struct cluster_lab *lab = *state;
	struct work before = *compiler_work(lab->c);
	struct object *subject = cluster_blocks_subject(), *policy = cluster_blocks(0, 1000, 24, 1000);
	struct change changes[] = {{.new = subject}, {.new = policy}};
	compiler_update(lab->c, changes, 2, NULL);
	assert_in_range(compiler_work(lab->c)->moves - before.moves, 1, 3 * 2 * shape.pods);
	struct change gone[] = {{.old = subject}, {.old = policy}};
	compiler_update(lab->c, gone, 2, NULL);
	object_put(subject);
	object_put(policy);
}

/* ---- Services ---- */

static uint64_t services_effort(const struct compiler *c)
{
	return compiler_work(c)->services + compiler_work(c)->backends;
}

enum { MANY_SERVICES = 300, BACKENDS = 20 };

static void services_change(struct compiler *c, struct object **objects, bool come)
{
	struct change changes[2 * MANY_SERVICES] = {0};
	for (unsigned i = 0; i < 2 * MANY_SERVICES; i++)
		*(come ? &changes[i].new : &changes[i].old) = objects[i];
	compiler_update(c, changes, 2 * MANY_SERVICES, NULL);
}

/* Two Services at most have a pod; each has 4 entries, 2 of them with its 20 backends. */
static void one_change_renews_the_services_that_it_concerns(void **state)
{
	struct cluster_lab *lab = *state;
	struct object *objects[2 * MANY_SERVICES];
	for (unsigned i = 0; i < MANY_SERVICES; i++) {
		objects[i] = cluster_service(&shape, i);
		objects[MANY_SERVICES + i] = cluster_slice(&shape, i, BACKENDS, 0);
	}
	uint64_t before = services_effort(lab->c);
	services_change(lab->c, objects, true);
	assert_in_range(services_effort(lab->c) - before, MANY_SERVICES * BACKENDS, MANY_SERVICES * BACKENDS * 6);
	assert_int_equal(compiler_tables(lab->c)->table[TABLE_service4].wanted.count, 2 * MANY_SERVICES);
	assert_int_equal(compiler_tables(lab->c)->table[TABLE_service6].wanted.count, 2 * MANY_SERVICES);
	for (unsigned i = 0; i < 4; i++) { /* relabelled, and back */
		before = services_effort(lab->c);
		cluster_change(lab->c, &lab->cluster.pods[7], cluster_pod(&shape, 7, i % 2 ? 0 : 1));
		assert_in_range(services_effort(lab->c) - before, 1, 200);
	}
	struct object *slice = object_get(objects[MANY_SERVICES + 5]);
	for (unsigned less = 1; less < 3; less++) {
		before = services_effort(lab->c);
		cluster_change(lab->c, &slice, cluster_slice(&shape, 5, BACKENDS, less % 2));
		assert_in_range(services_effort(lab->c) - before, 1, 200);
	}
	object_put(slice);
	struct change gone = {.old = lab->cluster.pods[9000]}, back = {.new = lab->cluster.pods[9000]};
	before = services_effort(lab->c);
	compiler_update(lab->c, &gone, 1, NULL);
	compiler_update(lab->c, &back, 1, NULL);
	assert_int_equal(services_effort(lab->c), before); /* nobody's backend */
	services_change(lab->c, objects, false);
	assert_int_equal(compiler_tables(lab->c)->table[TABLE_service4].wanted.count, 0);
	for (unsigned i = 0; i < 2 * MANY_SERVICES; i++)
		object_put(objects[i]);
}

/* ---- capacity ---- */

static void what_fits_is_accepted(void **state)
{
	struct cluster_lab *lab = *state;
	assert_int_equal(compiler_fits(lab->c, NULL), 0);
}

/* More workloads than endpoints there can be: counted, never written out of bounds, refused with the numbers. */
static void too_many_endpoints_are_refused(void **state)
{
	enum { COUNT = 16390 };
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	struct change *changes = mem_array(COUNT, sizeof(*changes));
	struct error error = {0};
	for (int i = 0; i < COUNT; i++)
		changes[i].new =
			cluster_object(str_format("{'apiVersion':'penstock.dev/v1alpha1','kind':'Workload','metadata':{'name':"
									  "'w%d','namespace':'s'},'spec':{'ips':['10.1.%d.%d']}}",
				i, i / 256, i % 256));
	compiler_update(c, changes, 16383, NULL);
	assert_int_equal(compiler_fits(c, &error), 0);
	compiler_update(c, changes + 16383, COUNT - 16383, NULL);
	assert_int_equal(compiler_fits(c, &error), -ENOSPC);
	assert_int_equal(error.kind, ERROR_NO_SPACE);
	assert_string_equal(error.detail, "table endpoint: 16391 entries are needed, there is room for 16384");
	for (int i = 0; i < COUNT; i++) {
		struct change gone = {.old = changes[i].new};
		compiler_update(c, &gone, 1, NULL);
		object_put(changes[i].new);
	}
	assert_int_equal(compiler_fits(c, &error), 0);
	free(changes);
	compiler_free(c);
	rulebook_free(book);
}

/* One network and ever more ports a rule: as many rows as port classes, and half of their product as cells. */
static void cells_add(struct lab *lab, int first, int end)
{
	struct change *changes = mem_array((size_t)(end - first), sizeof(*changes));
	for (int i = first; i < end; i++)
		changes[i - first].new = cluster_object(str_format(
			"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p%d','namespace':'s'},"
			"'spec':{'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'10.%d.%d.0/24'}}],'ports':[{'port':1,"
			"'endPort':%d}]}]}}",
			i, 100 + i / 256, i % 256, i + 2));
	compiler_update(lab->c, changes, (size_t)(end - first), NULL);
	for (int i = first; i < end; i++)
		object_put(changes[i - first].new);
	free(changes);
}

static void too_many_cells_are_refused(void **state)
{
	struct lab lab;
	struct error error = {0};
	lab_open(&lab);
	lab_put(&lab, LAB_POD("a", "s", "'app':'a'", "here", "10.0.0.1"));
	cells_add(&lab, 0, 600);
	assert_int_equal(compiler_fits(lab.c, &error), 0);
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_cell].wanted.count, 600 * 601 / 2);
	cells_add(&lab, 600, 725);
	assert_int_equal(compiler_fits(lab.c, &error), -ENOSPC);
	assert_string_equal(error.detail, "table cell: 263175 entries are needed, there is room for 262144");
	lab_close(&lab);
}

/* Networks of one address need room where addresses are. */
static void too_many_single_addresses_are_refused(void **state)
{
	enum { COUNT = 131072 };
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	struct error error = {0};
	blocks_put(c, COUNT / 1024 - 1, 1024, 32);
	assert_int_equal(compiler_fits(c, &error), 0);
	struct object *last = cluster_blocks(COUNT / 1024 - 1, 1024, 32, 0);
	struct change change = {.new = last};
	compiler_update(c, &change, 1, NULL);
	assert_int_equal(compiler_fits(c, &error), -ENOSPC);
	assert_string_equal(error.detail, "table addr4: 131073 entries are needed, there is room for 131072");
	object_put(last);
	compiler_free(c);
	rulebook_free(book);
}

/* Proxies that rules name need a number each, whether there is an object or not. */
static void too_many_proxies_are_refused(void **state)
{
	struct lab lab;
	struct error error = {0};
	lab_open(&lab);
	for (int i = 0; i < 255; i++)
		lab_put_object(
			&lab, cluster_object(str_format("{'apiVersion':'penstock.dev/v1alpha1','kind':'TransparentProxy',"
											"'metadata':{'name':'t%d'},'spec':{'port':15001}}",
					  i)));
	assert_int_equal(compiler_fits(lab.c, &error), 0);
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "one-more", "'port':15001"));
	assert_int_equal(compiler_fits(lab.c, &error), -ENOSPC);
	assert_string_equal(error.detail, "table proxy: 257 entries are needed, there is room for 256");
	lab_delete(&lab, "TransparentProxy//one-more");
	assert_int_equal(compiler_fits(lab.c, &error), 0);
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_changed_pod_costs_a_hundredth),
		cmocka_unit_test(a_pod_that_comes_like_others_is_one_entry),
		cmocka_unit_test(one_changed_policy_costs_a_hundredth),
		cmocka_unit_test(a_policy_for_nobody_here_costs_nothing),
		cmocka_unit_test(a_relabelled_namespace_costs_its_share),
		cmocka_unit_test(networks_cost_no_more_the_more_there_are),
		cmocka_unit_test(one_changed_policy_among_many_networks_costs_its_share),
		cmocka_unit_test(networks_among_many_addresses_compare_each_a_few_times),
		cmocka_unit_test(one_change_renews_the_services_that_it_concerns),
		cmocka_unit_test(what_fits_is_accepted),
		cmocka_unit_test(too_many_endpoints_are_refused),
		cmocka_unit_test(too_many_cells_are_refused),
		cmocka_unit_test(too_many_single_addresses_are_refused),
		cmocka_unit_test(too_many_proxies_are_refused),
	};
	return cmocka_run_group_tests_name("compile: work", tests, cluster_open, cluster_close);
}

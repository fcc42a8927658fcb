/* SPDX-License-Identifier: Apache-2.0 */
/* Tables, the rulebook, and the small collections of the compiler. */
#include "tests/unit/compile_lab.h"
#include "agent/compile/rulebook.h"

static void tables_note_changes_on_both_sides(void **state)
{
	struct tables tables;
	struct ps_key_row key = {.profile = 1, .class_id = 2};
	uint32_t value = 7, other = 8;
	tables_init(&tables);
	struct table *table = &tables.table[TABLE_peer_row];
	tables_put(&tables, TABLE_peer_row, &key, &value);
	assert_int_equal(table->wanted.count, 1);
	assert_int_equal(table->pending[0].count, 1);
	assert_int_equal(table->pending[1].count, 1);
	map_clear(&table->pending[0]);
	tables_put(&tables, TABLE_peer_row, &key, &value);
	assert_int_equal(table->pending[0].count, 0);
	tables_put(&tables, TABLE_peer_row, &key, &other);
	assert_int_equal(table->pending[0].count, 1);
	assert_int_equal(*(const uint32_t *)tables_get(&tables, TABLE_peer_row, &key), 8);
	map_clear(&table->pending[0]);
	tables_delete(&tables, TABLE_peer_row, &key);
	assert_null(tables_get(&tables, TABLE_peer_row, &key));
	assert_int_equal(table->pending[0].count, 1);
	map_clear(&table->pending[0]);
	tables_delete(&tables, TABLE_peer_row, &key);
	assert_int_equal(table->pending[0].count, 0);
	tables_clear(&tables);
}

static void an_array_index_of_zeros_is_absent(void **state)
{
	struct tables tables;
	uint32_t index = 3;
	struct ps_profile value = {.default_row = {1, 0}}, zero = {0};
	tables_init(&tables);
	tables_put(&tables, TABLE_profile, &index, &zero);
	assert_int_equal(tables.table[TABLE_profile].wanted.count, 0);
	assert_int_equal(tables.table[TABLE_profile].pending[0].count, 0);
	tables_put(&tables, TABLE_profile, &index, &value);
	tables_put(&tables, TABLE_profile, &index, &zero);
	assert_null(tables_get(&tables, TABLE_profile, &index));
	assert_int_equal(tables.table[TABLE_profile].pending[0].count, 1);
	tables_clear(&tables);
}

static void every_table_has_its_shape(void **state)
{
	assert_string_equal(table_infos[TABLE_addr4].name, "addr4");
	assert_int_equal(table_infos[TABLE_net6].type, TABLE_LPM);
	assert_int_equal(table_infos[TABLE_cell].key_size, sizeof(struct ps_key_cell));
	assert_int_equal(table_infos[TABLE_port].entries, PS_PORT_BLOCKS);
}

/* ---- rulebook ---- */

static void a_rule_keeps_its_number_while_it_is_known(void **state)
{
	struct rulebook *book = rulebook_new(5);
	uint32_t a = rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", INGRESS, 0, "");
	uint32_t b = rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", EGRESS, 0, "");
	assert_int_equal(a, 5);
	assert_int_equal(b, 6);
	assert_int_equal(rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", INGRESS, 0, "named"), a);
	assert_string_equal(rulebook_find(book, a)->rule_name, "named");
	rulebook_drop(book, a);
	assert_true(rulebook_find(book, a)->live);
	rulebook_drop(book, a);
	assert_false(rulebook_find(book, a)->live);
	assert_int_equal(rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", INGRESS, 0, ""), a);
	assert_true(rulebook_find(book, a)->live);
	assert_int_equal(rulebook_next_id(book), 7);
	rulebook_free(book);
}

static void the_database_seeds_the_rulebook(void **state)
{
	struct rulebook *book = rulebook_new(1);
	struct rule_identity seed = {.id = 41,
		.kind = KIND_INTERCEPT_POLICY,
		.namespace = (char *)"",
		.name = (char *)"i",
		.direction = EGRESS,
		.index = 2,
		.rule_name = (char *)"x",
		.live = true};
	rulebook_seed(book, &seed);
	rulebook_seed(book, &seed);
	assert_false(rulebook_find(book, 41)->live);
	assert_int_equal(rulebook_next_id(book), 42);
	assert_int_equal(rulebook_take(book, KIND_INTERCEPT_POLICY, "", "i", EGRESS, 2, "x"), 41);
	assert_int_equal(rulebook_take(book, KIND_INTERCEPT_POLICY, "", "i", EGRESS, 3, "y"), 42);
	size_t at = 0, count = 0;
	while (rulebook_next(book, &at))
		count++;
	assert_int_equal(count, 2);
	rulebook_free(book);
}

static void forgotten_rules_are_bounded_and_never_numbered_again(void **state)
{
	struct rulebook *book = rulebook_new(1);
	for (int i = 0; i < 70000; i++)
		rulebook_drop(book, rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", INGRESS, i, ""));
	assert_null(rulebook_find(book, 1));
	assert_non_null(rulebook_find(book, 70000));
	assert_int_equal(rulebook_take(book, KIND_NETWORK_POLICY, "n", "p", INGRESS, 0, ""), 70001);
	rulebook_free(book);
}

/* ---- collections ---- */

static void words_stay_sorted_and_unique(void **state)
{
	struct words words = {0};
	for (uint32_t i = 0; i < 50; i++)
		assert_true(words_insert(&words, i * 37 % 50));
	assert_false(words_insert(&words, 7));
	for (uint32_t i = 0; i < 50; i++)
		assert_int_equal(words.list[i], i);
	assert_true(words_remove(&words, 7));
	assert_false(words_remove(&words, 7));
	assert_false(words_have(&words, 7));
	assert_true(words_have(&words, 8));
	words_add(&words, 3);
	words_sort(&words);
	assert_int_equal(words.count, 49);
	words_free(&words);
}

static void the_lowest_free_number_is_taken(void **state)
{
	struct ids ids = {0};
	for (uint32_t i = 0; i < 200; i++)
		assert_int_equal(ids_take(&ids), i);
	ids_give(&ids, 130);
	ids_give(&ids, 5);
	assert_int_equal(ids_take(&ids), 5);
	assert_int_equal(ids_take(&ids), 130);
	assert_int_equal(ids_take(&ids), 200);
	assert_int_equal(ids_top(&ids), 201);
	ids_give(&ids, 200);
	assert_int_equal(ids_top(&ids), 200);
	ids_free(&ids);
}

static void a_round_comes_back_late(void **state)
{
	struct ids ids = {0};
	ids_take(&ids);
	assert_int_equal(ids_take_round(&ids, 1, 4, 1), 1);
	assert_int_equal(ids_take_round(&ids, 1, 4, 2), 2);
	ids_give(&ids, 1);
	assert_int_equal(ids_take_round(&ids, 1, 4, 3), 3);
	assert_int_equal(ids_take_round(&ids, 1, 4, 1), 1);
	assert_int_equal(ids_take_round(&ids, 1, 4, 2), 4); /* full: beyond the end, which capacity then refuses */
	ids_free(&ids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_note_changes_on_both_sides),
		cmocka_unit_test(an_array_index_of_zeros_is_absent),
		cmocka_unit_test(every_table_has_its_shape),
		cmocka_unit_test(a_rule_keeps_its_number_while_it_is_known),
		cmocka_unit_test(the_database_seeds_the_rulebook),
		cmocka_unit_test(forgotten_rules_are_bounded_and_never_numbered_again),
		cmocka_unit_test(words_stay_sorted_and_unique),
		cmocka_unit_test(the_lowest_free_number_is_taken),
		cmocka_unit_test(a_round_comes_back_late),
	};
	return cmocka_run_group_tests_name("compile: tables", tests, NULL, NULL);
}

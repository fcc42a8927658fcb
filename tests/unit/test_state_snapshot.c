/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/state_objects.h"
#include "agent/state/private.h"

#define EPOCH "0123456789abcdef"

static struct snapshot *empty(void)
{
	return snapshot_new(EPOCH);
}

static struct snapshot *finish_over(struct snapshot *base, struct draft *draft, uint64_t revision)
{
	struct snapshot *snapshot = draft_finish(draft, revision);
	snapshot_put(base);
	return snapshot;
}

static const struct owner *owner_of(const struct snapshot *snapshot, const char *name)
{
	for (size_t i = 0; i < snapshot->owner_count; i++)
		if (!strcmp(snapshot->owners[i].name, name))
			return &snapshot->owners[i];
	return NULL;
}

static struct snapshot *many(size_t count)
{
	struct snapshot *base = empty();
	struct draft *draft = draft_new(base);
	for (size_t i = 0; i < count; i++) {
		char name[32];
		snprintf(name, sizeof(name), "n%06zu", (i * 7919) % count);
		draft_put(draft, namespace_make(name, "0", "local", 0));
	}
	draft_owner(draft, "local", NULL, 1);
	return finish_over(base, draft, 1);
}

static void put_find_delete(void **state)
{
	struct snapshot *base = empty();
	struct draft *draft = draft_new(base);
	draft_put(draft, namespace_make("b", "1", "x", 0));
	draft_put(draft, policy_make("b", "p", "x", 0));
	draft_put(draft, namespace_make("a", "1", "y", 0));
	assert_non_null(draft_find(draft, KIND_NAMESPACE, "", "b"));
	assert_null(draft_find(draft, KIND_NAMESPACE, "", "c"));
	assert_false(draft_delete(draft, KIND_NAMESPACE, "", "c"));
	struct snapshot *one = finish_over(base, draft, 1);

	assert_int_equal(one->object_count, 3);
	assert_string_equal(one->objects[0]->name, "a");
	assert_string_equal(one->objects[1]->name, "b");
	assert_int_equal(one->objects[2]->kind, KIND_NETWORK_POLICY);
	assert_int_equal(one->objects[2]->revision, 1);
	assert_string_equal(one->epoch, EPOCH);
	assert_int_equal(owner_of(one, "x")->objects, 2);
	assert_int_equal(owner_of(one, "y")->objects, 1);

	draft = draft_new(one);
	assert_true(draft_delete(draft, KIND_NAMESPACE, "", "b"));
	assert_false(draft_delete(draft, KIND_NAMESPACE, "", "b"));
	assert_null(draft_find(draft, KIND_NAMESPACE, "", "b"));
	draft_put(draft, namespace_make("c", "1", "y", 0));
	struct snapshot *two = draft_finish(draft, 2);
	assert_non_null(snapshot_find(one, KIND_NAMESPACE, "", "b")); /* the old revision stays as it was */
	assert_null(snapshot_find(two, KIND_NAMESPACE, "", "b"));
	assert_int_equal(snapshot_find(two, KIND_NAMESPACE, "", "a")->revision, 1);
	assert_int_equal(snapshot_find(two, KIND_NAMESPACE, "", "c")->revision, 2);
	assert_ptr_equal(snapshot_find(two, KIND_NAMESPACE, "", "a"), snapshot_find(one, KIND_NAMESPACE, "", "a"));
	snapshot_put(one);
	assert_string_equal(snapshot_find(two, KIND_NETWORK_POLICY, "b", "p")->name, "p");
	snapshot_put(two);
}

static void differences_are_of_content(void **state)
{
	const struct difference *d;
	struct snapshot *base = many(3);
	struct draft *draft = draft_new(base);
	draft_put(draft, namespace_make("n000001", "0", "local", 0)); /* the same again */
	assert_int_equal(draft_differences(draft, &d), 0);
	draft_put(draft, namespace_make("n000002", "1", "local", 0)); /* other content */
	draft_put(draft, namespace_make("n000000", "0", "other", 0)); /* another owner */
	draft_put(draft, namespace_make("new", "0", "local", 0));
	draft_put(draft, namespace_make("gone", "0", "local", 0)); /* made and unmade in one draft */
	draft_delete(draft, KIND_NAMESPACE, "", "gone");
	assert_int_equal(draft_differences(draft, &d), 3);
	assert_string_equal(d[0].new->name, "n000000");
	assert_string_equal(d[0].old->owner, "local");
	assert_string_equal(d[1].new->name, "n000002");
	assert_null(d[2].old);
	draft_delete(draft, KIND_NAMESPACE, "", "n000002");
	assert_int_equal(draft_differences(draft, &d), 3);
	assert_null(d[1].new);
	assert_string_equal(d[1].old->name, "n000002");
	struct snapshot *next = draft_finish(draft, 9);
	assert_int_equal(snapshot_find(next, KIND_NAMESPACE, "", "n000001")->revision, 1);
	assert_int_equal(snapshot_find(next, KIND_NAMESPACE, "", "n000000")->revision, 9);
	assert_int_equal(owner_of(next, "local")->objects, 2);
	assert_int_equal(owner_of(next, "other")->objects, 1);
	snapshot_put(next);
	snapshot_put(base);
}

static void ranges(void **state)
{
	size_t first, end;
	struct snapshot *base = empty();
	struct draft *draft = draft_new(base);
	draft_put(draft, namespace_make("a", "1", "x", 0));
	draft_put(draft, policy_make("a", "p", "x", 0));
	draft_put(draft, policy_make("a", "q", "x", 0));
	draft_put(draft, policy_make("ab", "p", "x", 0));
	struct snapshot *one = finish_over(base, draft, 1);
	snapshot_range(one, KIND_NAMESPACE, NULL, &first, &end);
	assert_int_equal(first, 0);
	assert_int_equal(end, 1);
	snapshot_range(one, KIND_NETWORK_POLICY, NULL, &first, &end);
	assert_int_equal(first, 1);
	assert_int_equal(end, 4);
	snapshot_range(one, KIND_NETWORK_POLICY, "a", &first, &end);
	assert_int_equal(first, 1);
	assert_int_equal(end, 3);
	snapshot_range(one, KIND_NETWORK_POLICY, "b", &first, &end);
	assert_int_equal(first, end);
	snapshot_range(one, KIND_CIDR_SET, NULL, &first, &end);
	assert_int_equal(first, 4);
	assert_int_equal(end, 4);
	snapshot_put(one);
}

static void quarantine(void **state)
{
	struct snapshot *base = many(2);
	struct object *standing = object_with(base->objects[0], "local", 1);
	struct quarantined q = {{"Namespace", "", "n000000"}, "local", "[]", standing, false};
	struct draft *draft = draft_new(base);
	draft_quarantine(draft, &q);
	draft_put(draft, standing);
	assert_true(draft_quarantine_changed(draft));
	const struct difference *d;
	assert_int_equal(draft_differences(draft, &d), 0);
	struct snapshot *one = draft_finish(draft, 2);
	assert_int_equal(one->quarantined_count, 1);
	assert_ptr_equal(one->quarantined[0].standing, base->objects[0]);

	draft = draft_new(one); /* released and set aside again for the same reason: no change */
	assert_true(draft_release(draft, "Namespace", "", "n000000"));
	assert_false(draft_release(draft, "Namespace", "", "n000000"));
	assert_true(draft_quarantine_changed(draft));
	q.standing = one->quarantined[0].standing;
	draft_quarantine(draft, &q);
	assert_false(draft_quarantine_changed(draft));
	q.errors = "[{}]";
	draft_quarantine(draft, &q);
	assert_true(draft_quarantine_changed(draft));
	q = (struct quarantined){{"Nonsense", "", "a"}, "z", "[]", NULL, false};
	draft_quarantine(draft, &q);
	q.key.kind = "CIDRSet";
	draft_quarantine(draft, &q);
	struct snapshot *two = draft_finish(draft, 3);
	assert_int_equal(one->quarantined_count, 1);
	assert_string_equal(one->quarantined[0].errors, "[]");
	assert_int_equal(two->quarantined_count, 3);
	assert_string_equal(two->quarantined[0].key.kind, "CIDRSet");
	assert_string_equal(two->quarantined[1].errors, "[{}]");
	snapshot_put(base);
	snapshot_put(one);
	snapshot_put(two);
}

static void owners(void **state)
{
	uint64_t term = 7;
	struct snapshot *base = empty();
	struct draft *draft = draft_new(base);
	draft_put(draft, namespace_make("a", "0", "alpha", 0));
	draft_put(draft, namespace_make("b", "0", "beta", 0));
	draft_owner(draft, "beta", &term, 100);
	struct snapshot *now = finish_over(base, draft, 1);
	assert_true(owner_of(now, "beta")->has_term);
	assert_int_equal(owner_of(now, "beta")->term, 7);

	draft = draft_new(now); /* a later write without a term keeps the old one */
	draft_owner(draft, "beta", NULL, 200);
	draft_owner(draft, "idle", NULL, 200);
	now = finish_over(now, draft, 2);
	assert_int_equal(owner_of(now, "beta")->term, 7);
	assert_int_equal(owner_of(now, "beta")->last_write, 200);
	assert_int_equal(owner_of(now, "idle")->objects, 0);

	draft = draft_new(now);
	draft_delete(draft, KIND_NAMESPACE, "", "a");
	draft_delete(draft, KIND_NAMESPACE, "", "b");
	now = finish_over(now, draft, 3);
	assert_null(owner_of(now, "alpha"));    /* nothing to remember */
	assert_non_null(owner_of(now, "beta")); /* its term */
	assert_non_null(owner_of(now, "idle")); /* wrote an empty state */
	assert_int_equal(owner_of(now, "beta")->objects, 0);
	snapshot_put(now);
}

/* What a write costs: the pointers of all, the references of a chunk or two. */
static void one_write_touches_one_chunk(void **state)
{
	struct snapshot *base = many(10000);
	assert_in_range(base->chunk_count, 10000 / (2 * CHUNK_OBJECTS), 10000 / CHUNK_OBJECTS + 1);
	for (int i = 0; i < 300; i++) {
		char name[32];
		struct draft *draft = draft_new(base);
		if (i % 3 == 0) /* replace, create in one place, append */
			snprintf(name, sizeof(name), "n%06d", i * 31);
		else
			snprintf(name, sizeof(name), "%s%d", i % 3 == 1 ? "n000500x" : "z", i);
		draft_put(draft, namespace_make(name, "1", "local", 0));
		struct snapshot *next = draft_finish(draft, 2 + i);
		size_t shared = 0;
		for (size_t j = 0; j < next->chunk_count; j++)
			for (size_t k = 0; k < base->chunk_count; k++)
				shared += next->chunks[j] == base->chunks[k];
		assert_true(base->chunk_count - shared <= 2);
		assert_true(next->chunk_count - shared <= 3);
		snapshot_put(base);
		base = next;
	}
	assert_int_equal(base->object_count, 10200);
	assert_in_range(base->chunk_count, 10000 / (2 * CHUNK_OBJECTS), 10000 / CHUNK_OBJECTS + 4);
	snapshot_put(base);
}

/* Random writes against an array of versions. */
static void random_writes(void **state)
{
	enum { KEYS = 900 };
	static int versions[KEYS];
	unsigned seed = 20261123;
	struct snapshot *now = empty();
	memset(versions, 0, sizeof(versions));
	for (int round = 1; round <= 60; round++) {
		struct draft *draft = draft_new(now);
		int edits = rand_r(&seed) % (round % 7 ? 20 : 900);
		for (int i = 0; i < edits; i++) {
			char name[16], version[16];
			int key = rand_r(&seed) % KEYS;
			snprintf(name, sizeof(name), "k%03d", key);
			snprintf(version, sizeof(version), "%d", round);
			if (rand_r(&seed) % 3 == 0) {
				assert_int_equal(draft_delete(draft, KIND_NAMESPACE, "", name), versions[key] != 0);
				versions[key] = 0;
			} else {
				draft_put(draft, namespace_make(name, version, "local", 0));
				versions[key] = round;
			}
		}
		now = finish_over(now, draft, round);
		size_t at = 0, in_chunks = 0;
		for (int key = 0; key < KEYS; key++) {
			char name[16], version[32];
			if (!versions[key])
				continue;
			snprintf(name, sizeof(name), "k%03d", key);
			snprintf(version, sizeof(version), "\"v\":\"%d\"", versions[key]);
			assert_true(at < now->object_count);
			assert_string_equal(now->objects[at]->name, name);
			assert_non_null(strstr(now->objects[at]->json, version));
			assert_ptr_equal(snapshot_find(now, KIND_NAMESPACE, "", name), now->objects[at]);
			at++;
		}
		assert_int_equal(at, now->object_count);
		for (size_t i = 0; i < now->chunk_count; i++)
			for (size_t j = 0; j < now->chunks[i]->count; j++)
				assert_ptr_equal(now->chunks[i]->objects[j], now->objects[in_chunks++]);
		assert_int_equal(in_chunks, now->object_count);
		assert_int_equal(now->owner_count ? owner_of(now, "local")->objects : 0, now->object_count);
	}
	snapshot_put(now);
}

static void a_draft_can_be_thrown_away(void **state)
{
	struct snapshot *base = many(5);
	struct draft *draft = draft_new(base);
	struct quarantined q = {{"Pod", "a", "b"}, "local", "[]", NULL, false};
	draft_put(draft, namespace_make("x", "1", "local", 0));
	draft_delete(draft, KIND_NAMESPACE, "", "n000001");
	draft_quarantine(draft, &q);
	draft_owner(draft, "local", NULL, 5);
	draft_free(draft);
	assert_int_equal(base->object_count, 5);
	assert_int_equal(base->quarantined_count, 0);
	snapshot_put(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put_find_delete),
		cmocka_unit_test(differences_are_of_content),
		cmocka_unit_test(ranges),
		cmocka_unit_test(quarantine),
		cmocka_unit_test(owners),
		cmocka_unit_test(one_write_touches_one_chunk),
		cmocka_unit_test(random_writes),
		cmocka_unit_test(a_draft_can_be_thrown_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

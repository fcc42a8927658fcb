/* SPDX-License-Identifier: Apache-2.0 */
/* Myers, An O(ND) Difference Algorithm and Its Variations (1986): the greedy one. */
#include "api/cli/compare.h"

#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/style.h"

#define CONTEXT 3
#define EDITS_MAX 2000 /* what the search remembers grows with its square: 16 MB */

struct line {
	const char *text;
	size_t length;
};
struct side {
	struct line *lines;
	long count;
	bool *differs; /* is only on this side */
};

static void side_read(const char *text, struct side *ret)
{
	size_t capacity = 0;
	*ret = (struct side){0};
	while (*text) {
		size_t length = strcspn(text, "\n");
		ret->lines = list_room(ret->lines, (size_t)ret->count, &capacity, sizeof *ret->lines);
		ret->lines[ret->count++] = (struct line){text, length};
		text += length + (text[length] == '\n');
	}
	ret->differs = mem_array((size_t)ret->count + 1, sizeof *ret->differs);
}

static void side_free(struct side *side)
{
	free(side->lines);
	free(side->differs);
}

static bool same(const struct side *a, long x, const struct side *b, long y)
{
	return a->lines[x].length == b->lines[y].length &&
		   memcmp(a->lines[x].text, b->lines[y].text, a->lines[x].length) == 0;
}

/* ---- which lines differ ---- */

/* Between `begin` and the ends, of both. reach[k + offset]: how far in `a` the diagonal k (x - y) was followed. */
struct search {
	struct side *a, *b;
	long begin, a_end, b_end;
	long *steps[EDITS_MAX + 1]; /* after so many edits: the diagonals -d … d */
};

static long from_below(const long *before, long d, long k)
{
	/* `before` has the diagonals -(d-1) … d-1 */
	bool down = k == -d || (k != d && before[k - 1 + d - 1] < before[k + 1 + d - 1]);
	return down ? before[k + 1 + d - 1] : before[k - 1 + d - 1] + 1;
}

/* How many edits it takes; -1: too many. */
static long search_run(struct search *s)
{
	long n = s->a_end - s->begin, m = s->b_end - s->begin;
	for (long d = 0; d <= EDITS_MAX && d <= n + m; d++) {
		long *reach = mem_array((size_t)(2 * d + 1), sizeof *reach);
		s->steps[d] = reach;
		for (long k = -d; k <= d; k += 2) {
			long x = d ? from_below(s->steps[d - 1], d, k) : 0, y = x - k;
			while (x < n && y >= 0 && y < m && same(s->a, s->begin + x, s->b, s->begin + y))
				x++, y++;
			reach[k + d] = x;
			if (x >= n && y >= m)
				return d;
		}
	}
	return -1;
}

/* Back from the end, which edits they were. */
static void search_mark(struct search *s, long edits)
{
	long x = s->a_end - s->begin, y = s->b_end - s->begin;
	for (long d = edits; d > 0; d--) {
		const long *before = s->steps[d - 1];
		long k = x - y;
		bool down = k == -d || (k != d && before[k - 1 + d - 1] < before[k + 1 + d - 1]);
		long previous = down ? k + 1 : k - 1;
		x = before[previous + d - 1];
		y = x - previous;
		if (down)
			s->b->differs[s->begin + y] = true;
		else
			s->a->differs[s->begin + x] = true;
	}
}

static void mark(struct side *a, struct side *b)
{
	struct search *s = mem_alloc(sizeof *s);
	*s = (struct search){.a = a, .b = b, .a_end = a->count, .b_end = b->count};
	while (s->begin < a->count && s->begin < b->count && same(a, s->begin, b, s->begin))
		s->begin++;
	while (s->a_end > s->begin && s->b_end > s->begin && same(a, s->a_end - 1, b, s->b_end - 1))
		s->a_end--, s->b_end--;
	long edits = search_run(s);
	if (edits >= 0) {
		search_mark(s, edits);
	} else {
		for (long at = s->begin; at < s->a_end; at++)
			a->differs[at] = true;
		for (long at = s->begin; at < s->b_end; at++)
			b->differs[at] = true;
	}
	for (long d = 0; d <= EDITS_MAX; d++)
		free(s->steps[d]);
	free(s);
}

/* ---- hunks ---- */

static void put(struct buffer *out, char sign, const struct line *line, bool colours)
{
	enum style style = sign == '-' ? STYLE_RED : sign == '+' ? STYLE_GREEN : STYLE_PLAIN;
	bool styled = colours && style != STYLE_PLAIN;
	buffer_printf(out, "%s%c", styled ? style_begin(style) : "", sign);
	buffer_add(out, line->text, line->length);
	buffer_printf(out, "%s\n", styled ? STYLE_END : "");
}

static void range(struct buffer *out, char sign, long from, long count)
{
	buffer_printf(out, "%c%ld", sign, count ? from + 1 : from);
	if (count != 1)
		buffer_printf(out, ",%ld", count);
}

/* From (x, y), which is the first line of the context, up to (x_end, y_end). */
static void hunk(const struct side *a, const struct side *b, long x, long x_end, long y, long y_end, bool colours,
	struct buffer *out)
{
	buffer_puts(out, colours ? style_begin(STYLE_CYAN) : "");
	buffer_puts(out, "@@ ");
	range(out, '-', x, x_end - x);
	buffer_puts(out, " ");
	range(out, '+', y, y_end - y);
	buffer_puts(out, " @@");
	buffer_puts(out, colours ? STYLE_END "\n" : "\n");
	while (x < x_end || y < y_end) {
		if (x < x_end && a->differs[x])
			put(out, '-', &a->lines[x++], colours);
		else if (y < y_end && b->differs[y])
			put(out, '+', &b->lines[y++], colours);
		else
			put(out, ' ', &a->lines[x++], colours), y++;
	}
}

void compare_lines(const char *old, const char *new, bool colours, struct buffer *out)
{
	struct side a, b;
	long x = 0, y = 0;
	side_read(old, &a);
	side_read(new, &b);
	mark(&a, &b);
	for (;;) {
		while (x < a.count && y < b.count && !a.differs[x] && !b.differs[y])
			x++, y++;
		if (x == a.count && y == b.count)
			break;
		long lead = x < CONTEXT ? x : CONTEXT, from_x = x - lead, from_y = y - lead, equal = 0;
		/* up to where more lines are equal than the context of two hunks takes */
		while ((x < a.count || y < b.count) && equal <= 2 * CONTEXT) {
			bool differs = (x < a.count && a.differs[x]) || (y < b.count && b.differs[y]);
			equal = differs ? 0 : equal + 1;
			if (x < a.count && a.differs[x])
				x++;
			else if (y < b.count && b.differs[y])
				y++;
			else
				x++, y++;
		}
		long cut = equal > CONTEXT ? equal - CONTEXT : 0;
		hunk(&a, &b, from_x, x - cut, from_y, y - cut, colours, out);
		if (x == a.count && y == b.count)
			break;
		x -= cut, y -= cut;
	}
	side_free(&a);
	side_free(&b);
}

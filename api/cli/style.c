/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/style.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool style_wanted(const char *when)
{
	const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");
	if (when && strcmp(when, "auto") != 0)
		return strcmp(when, "always") == 0;
	return isatty(STDOUT_FILENO) && !(no && *no) && !(terminal && strcmp(terminal, "dumb") == 0);
}

const char *style_begin(enum style style)
{
	static const char *const begins[] = {[STYLE_PLAIN] = "",
		[STYLE_BOLD] = "\033[1m",
		[STYLE_DIM] = "\033[2m",
		[STYLE_RED] = "\033[31m",
		[STYLE_GREEN] = "\033[32m",
		[STYLE_YELLOW] = "\033[33m",
		[STYLE_CYAN] = "\033[36m",
		[STYLE_REVERSE] = "\033[7m"};
	return begins[style];
}

/* The bytes of the code point, or of the escape sequence, that begins here; *columns: what it takes. */
static size_t piece(const char *text, size_t *columns)
{
	size_t length = 1;
	*columns = 0;
	if (text[0] == '\033' && text[1] == '[')
		return strcspn(text, "m") + (strchr(text, 'm') != NULL);
	*columns = 1;
	while (((unsigned char)text[length] & 0xc0) == 0x80)
		length++;
	return length;
}

size_t text_width(const char *text)
{
	size_t width = 0, columns;
	while (*text) {
		text += piece(text, &columns);
		width += columns;
	}
	return width;
}

void text_fit(struct buffer *out, const char *text, size_t width, bool fill)
{
	size_t whole = text_width(text), taken = 0, columns;
	bool cut = whole > width, styled = false;
	while (*text && width) {
		size_t length = piece(text, &columns);
		if (cut && taken + columns >= width)
			break;
		styled |= !columns;
		buffer_add(out, text, length);
		taken += columns;
		text += length;
	}
	if (cut && width) {
		buffer_puts(out, "\xe2\x80\xa6");
		taken++;
	}
	if (cut && styled)
		buffer_puts(out, STYLE_END);
	if (fill && taken < width)
		buffer_printf(out, "%*s", (int)(width - taken), "");
}

void text_middle(struct buffer *out, const char *text, size_t width)
{
	size_t whole = text_width(text), last = (width - 1) / 2, first = width - 1 - last, columns;
	for (size_t at = 0; *text; at++) {
		size_t length = piece(text, &columns);
		if (at == first)
			buffer_puts(out, "\xe2\x80\xa6");
		if (at < first || at >= whole - last)
			buffer_add(out, text, length);
		text += length;
	}
}

void text_clean(struct buffer *out, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		bool c1 = c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0;
		buffer_add(out, c < 0x20 || c == 0x7f || c1 ? " " : text, 1);
		text += c1;
	}
}

/* Three digits and a unit of a thousand times the one before. */
static void scaled(struct buffer *out, double value, const char *const *units)
{
	int unit = 0;
	while (value >= 999.5 && units[unit + 1]) {
		value /= 1000;
		unit++;
	}
	buffer_printf(out, unit && value < 9.95 ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

void text_bytes(struct buffer *out, double bytes)
{
	static const char *const units[] = {" B", " kB", " MB", " GB", " TB", " PB", NULL};
	scaled(out, bytes, units);
}

void text_count(struct buffer *out, double count)
{
	static const char *const units[] = {"", "k", "M", "G", "T", NULL};
	scaled(out, count, units);
}

void text_duration(struct buffer *out, double seconds)
{
	long whole = (long)(seconds + 0.5);
	if (seconds < 0.0995)
		buffer_printf(out, seconds < 0.00995 ? "%.2f ms" : "%.0f ms", seconds * 1e3);
	else if (seconds < 0.9995)
		buffer_printf(out, "%.0f ms", seconds * 1e3);
	else if (seconds < 59.95)
		buffer_printf(out, "%.1f s", seconds);
	else if (whole < 3600)
		buffer_printf(out, "%ldm%02lds", whole / 60, whole % 60);
	else if (whole < 86400)
		buffer_printf(out, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
	else
		buffer_printf(out, "%ldd%02ldh", whole / 86400, whole / 3600 % 24);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/buffer.h"

static _Atomic int threshold = LOG_LEVEL_INFO;
static _Atomic int shape = LOG_TEXT;
static atomic_bool journal;

/* Standard error is systemd's journal (systemd.exec(5)), which takes a line's priority from its beginning. */
static bool is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat file;
	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &file) == 0 &&
		   file.st_dev == device && file.st_ino == inode;
}

void log_configure(enum log_level level, enum log_format format)
{
	threshold = level;
	shape = format;
	journal = is_journal();
}

/* A message is one line, and nothing that a terminal obeys, whatever somebody's name or error text carries into it. */
static void add_text(struct buffer *line, const char *message)
{
	const unsigned char *at = (const unsigned char *)message;
	while (*at) {
		size_t length = utf8_bytes(at);
		bool control = *at < 0x20 || *at == 0x7f || (*at == 0xc2 && length == 2 && at[1] < 0xa0); /* C0, DEL, C1 */
		if (*at == '\n')
			buffer_puts(line, "\\n");
		else if (!length || control)
			buffer_printf(line, "\\x%02x", length == 2 ? at[1] : *at);
		else
			buffer_add(line, at, length);
		at += length ? length : 1;
	}
}

static void render(struct buffer *line, enum log_level level, const char *room, const char *message)
{
	static const char *const upper[] = {"DEBUG", "INFO", "WARN", "ERROR"};
	static const char *const lower[] = {"debug", "info", "warn", "error"};
	static const char *const syslog[] = {"<7>", "<6>", "<4>", "<3>"};
	struct timespec now;
	struct tm utc;
	char time[40];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	size_t length = strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(time + length, sizeof time - length, ".%03ldZ", now.tv_nsec / 1000000);
	if (journal)
		buffer_puts(line, syslog[level]);
	if (shape == LOG_JSON) {
		buffer_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"room\":", time, lower[level]);
		buffer_json_string(line, room);
		buffer_puts(line, ",\"message\":");
		buffer_json_string(line, message);
		buffer_puts(line, "}\n");
	} else {
		buffer_printf(line, "%s %-5s %s: ", time, upper[level], room);
		add_text(line, message);
		buffer_puts(line, "\n");
	}
}

__attribute__((format(printf, 3, 0))) static void tell(
	enum log_level level, const char *room, const char *format, va_list arguments)
{
	char *message;
	int length = vasprintf(&message, format, arguments);
	if (length < 0)
		return;
	struct buffer line = {0};
	render(&line, level, room, message);
	/* One write a line: lines of several threads never mix. What a full pipe refuses is lost, not waited for twice. */
	ssize_t written = write(STDERR_FILENO, line.data, line.length);
	(void)written;
	buffer_free(&line);
	free(message);
}

void log_write(enum log_level level, const char *room, const char *format, ...)
{
	va_list arguments;
	if ((int)level < threshold)
		return;
	va_start(arguments, format);
	tell(level, room, format, arguments);
	va_end(arguments);
}

void log_always(const char *room, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	tell(LOG_LEVEL_INFO, room, format, arguments);
	va_end(arguments);
}

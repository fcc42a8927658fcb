/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include "agent/base/buffer.h"

#define ENTER "\033[?1049h\033[?25l\033[2J"
#define LEAVE "\033[?25h\033[?1049l"

static struct termios before;
static bool keys; /* standard input is a terminal too */
static int told[2] = {-1, -1}, ends_by = -1;

static void tell(int signal)
{
	char code = (char)signal;
	int saved = errno;
	if (write(told[1], &code, 1) < 0)
		errno = saved; /* it is full: it is readable */
}

static void put(const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(STDOUT_FILENO, text, length);
		if (written < 0 && errno != EINTR)
			return;
		if (written > 0) {
			text += written;
			length -= (size_t)written;
		}
	}
}

static void screen_enter(void)
{
	struct termios raw = before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	put(ENTER, strlen(ENTER));
}

void terminal_leave(void)
{
	put(LEAVE, strlen(LEAVE));
	if (keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

static void hear(int signal, void (*handler)(int))
{
	const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	sigaction(signal, &action, NULL);
}

void terminal_enter(int ends)
{
	ends_by = ends;
	keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0;
	if (pipe2(told, O_CLOEXEC | O_NONBLOCK) < 0)
		abort();
	hear(SIGWINCH, tell);
	hear(SIGTSTP, tell);
	screen_enter();
}

static size_t from_environment(const char *name, size_t fallback)
{
	const char *text = getenv(name);
	long value = text ? strtol(text, NULL, 10) : 0;
	return value > 0 && value < 10000 ? (size_t)value : fallback;
}

void terminal_size(size_t *columns, size_t *lines)
{
	struct winsize size = {0};
	bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row;
	*columns = known ? size.ws_col : from_environment("COLUMNS", 100);
	*lines = known ? size.ws_row : from_environment("LINES", 40);
}

void terminal_show(const char *text)
{
	struct buffer out = {0};
	buffer_puts(&out, "\033[H");
	while (*text) {
		size_t length = strcspn(text, "\n");
		buffer_add(&out, text, length);
		buffer_puts(&out, "\033[K"); /* the rest of the line */
		text += length + (text[length] == '\n');
		if (*text)
			buffer_puts(&out, "\r\n");
	}
	buffer_puts(&out, "\033[J"); /* the rest of the screen */
	put(out.data, out.length);
	buffer_free(&out);
}

/* As if it had not been caught; goes on when somebody wakes us. */
static void stop(void)
{
	terminal_leave();
	hear(SIGTSTP, SIG_DFL);
	raise(SIGTSTP);
	hear(SIGTSTP, tell);
	screen_enter();
}

static void signals_take(void)
{
	char codes[64];
	bool stopped = false;
	for (ssize_t count; (count = read(told[0], codes, sizeof codes)) > 0;)
		stopped |= memchr(codes, SIGTSTP, (size_t)count) != NULL;
	if (stopped)
		stop();
}

enum terminal_event terminal_wait(double seconds, int *key)
{
	struct pollfd wait[] = {{.fd = ends_by, .events = POLLIN}, {.fd = told[0], .events = POLLIN},
		{.fd = keys ? STDIN_FILENO : -1, .events = POLLIN}};
	unsigned char byte;
	int ready = poll(wait, 3, seconds > 0 ? (int)(seconds * 1000) + 1 : 0);
	if (wait[0].revents)
		return TERMINAL_END;
	if (wait[1].revents || (ready < 0 && errno == EINTR)) {
		signals_take();
		return TERMINAL_RESIZED;
	}
	if (!wait[2].revents)
		return TERMINAL_TIME;
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return TERMINAL_END; /* the terminal is gone */
	*key = byte;
	return TERMINAL_KEY;
}

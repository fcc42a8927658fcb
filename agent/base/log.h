/* SPDX-License-Identifier: Apache-2.0 */
/* One line an event on standard error, as text or JSON. Thread-safe. */
#ifndef PENSTOCK_LOG_H
#define PENSTOCK_LOG_H

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_configure(enum log_level level, enum log_format format);
/* room: who speaks ("datapath", "api" …). */
void log_write(enum log_level level, const char *room, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Told whatever the level is: as info. */
void log_always(const char *room, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_debug(room, ...) log_write(LOG_LEVEL_DEBUG, room, __VA_ARGS__)
#define log_info(room, ...) log_write(LOG_LEVEL_INFO, room, __VA_ARGS__)
#define log_warn(room, ...) log_write(LOG_LEVEL_WARN, room, __VA_ARGS__)
#define log_error(room, ...) log_write(LOG_LEVEL_ERROR, room, __VA_ARGS__)

#endif

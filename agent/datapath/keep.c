/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier needs most of the time of a start. So programs that an earlier process has loaded and pinned are taken
 * as they are, when they would become the same. They do not say of what they were made: beside them stands a mark, one
 * more pin of one of them, whose name is a hash of that and of the programs' numbers, which as long as the kernel runs
 * no others have.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define FOLDER "programs"
#define PREFIX "made-of-"

struct mark {
	const struct pins *pins;
	uint64_t hash;
	char name[32];
};

static void mark_add(struct mark *mark, uint32_t number)
{
	mark->hash = hash_bytes(&number, sizeof(number), mark->hash);
	snprintf(mark->name, sizeof(mark->name), PREFIX "%016lx", (unsigned long)mark->hash);
}

static int remove_other(void *context, const char *name)
{
	const struct mark *mark = context;
	char path[PIN_PATH_MAX];
	if (strncmp(name, PREFIX, strlen(PREFIX)) == 0 && strcmp(name, mark->name) != 0)
		unlink(pins_path(mark->pins, path, FOLDER, name));
	return 0;
}

/* 0 when one is not there. */
static uint32_t take(const struct pins *pins, const char *name, struct kept *kept)
{
	char path[PIN_PATH_MAX];
	int fd = kept->count < KEPT_MAX ? bpf_obj_get(pins_path(pins, path, FOLDER, name)) : -1;
	if (fd < 0)
		return 0;
	kept->list[kept->count++] = (struct kept_program){name, fd};
	return program_number(fd);
}

bool keep_find(const struct pins *pins, uint64_t identity, const struct bpf_object *object, struct kept *ret)
{
	struct mark mark = {.pins = pins, .hash = identity};
	struct bpf_program *program;
	char path[PIN_PATH_MAX];
	bool found = true;
	bpf_object__for_each_program(program, object)
	{
		uint32_t number = found && bpf_program__autoload(program) ? take(pins, bpf_program__name(program), ret) : 0;
		found = found && (number || !bpf_program__autoload(program));
		if (number)
			mark_add(&mark, number);
	}
	found = found && ret->count && access(pins_path(pins, path, FOLDER, mark.name), F_OK) == 0;
	if (!found) {
		keep_close(ret);
		return false;
	}
	bpf_object__for_each_program(program, object) bpf_program__set_autoload(program, false);
	return true;
}

int keep_pin(const struct pins *pins, uint64_t identity, const struct bpf_object *object, struct error *e)
{
	struct mark mark = {.pins = pins, .hash = identity};
	struct bpf_program *program;
	int result = 0, any = -1;
	bpf_object__for_each_program(program, object)
	{
		int fd = bpf_program__fd(program);
		if (fd < 0 || result < 0)
			continue;
		result = pins_replace(pins, fd, FOLDER, bpf_program__name(program), e);
		mark_add(&mark, program_number(fd));
		any = fd;
	}
	if (result < 0 || any < 0)
		return result;
	pins_each(pins, FOLDER, remove_other, &mark);
	return identity ? pins_replace(pins, any, FOLDER, mark.name, e) : 0;
}

int keep_descriptor(const struct kept *kept, const char *name)
{
	for (size_t i = 0; i < kept->count; i++)
		if (strcmp(kept->list[i].name, name) == 0)
			return kept->list[i].fd;
	return -ENOENT;
}

void keep_close(struct kept *kept)
{
	while (kept->count)
		close(kept->list[--kept->count].fd);
}

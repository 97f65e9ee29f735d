/* A libibverbs.so.1 that does what STUB_VERBS says: list devices, crash, hang, leave, or give what makes no sense. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES 64

static char names[DEVICES][80];
static void *list[DEVICES + 1];

static const char *told(void)
{
	const char *text = getenv("STUB_VERBS");

	return text ? text : "";
}

void **ibv_get_device_list(int *count)
{
	const char *text = told();
	char copy[4096], *name;
	int found = 0;

	printf("a line of a library that nobody asked for\n");
	fflush(stdout);
	if (!strcmp(text, "crash"))
		abort();
	if (!strcmp(text, "leave"))
		exit(3);
	if (!strcmp(text, "hang"))
		for (;;)
			pause();
	if (!strcmp(text, "refuse")) {
		errno = EIO;
		return NULL;
	}
	if (!strcmp(text, "none")) {
		errno = ENOSYS;
		return NULL;
	}
	snprintf(copy, sizeof(copy), "%s", text);
	for (name = strtok(copy, ","); name && found < DEVICES; name = strtok(NULL, ",")) {
		snprintf(names[found], sizeof(names[found]), "%s", name);
		list[found] = names[found];
		found++;
	}
	*count = found;
	return list;
}

const char *ibv_get_device_name(void *device)
{
	return device;
}

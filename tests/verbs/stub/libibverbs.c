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

/* What is only called on a device that was opened; STUB_OPEN says how that goes. */

static char context[512];

void *ibv_open_device(void *device)
{
	const char *text = getenv("STUB_OPEN");

	if (text && !strcmp(text, "hang"))
		for (;;)
			pause();
	if (text && !strcmp(text, "lie"))
		return context;
	return *(void *volatile *)0;
}

void *ibv_alloc_pd(void *opened)
{
	return opened;
}

int ibv_query_port(void *opened, unsigned char port, int *attributes)
{
	attributes[0] = 77; /* the state */
	attributes[2] = 99; /* the MTU */
	return 0;
}

#define UNUSED(name) int name(void) { return EIO; }
UNUSED(ibv_close_device)
UNUSED(ibv_dealloc_pd)
UNUSED(ibv_query_gid)
UNUSED(ibv_query_pkey)
UNUSED(ibv_reg_mr)
UNUSED(ibv_dereg_mr)
UNUSED(ibv_create_cq)
UNUSED(ibv_destroy_cq)
UNUSED(ibv_create_qp)
UNUSED(ibv_destroy_qp)
UNUSED(ibv_modify_qp)

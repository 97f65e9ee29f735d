/*
 * A libibverbs.so.1 without hardware: it answers from a directory tree in sysfs layout.
 *
 * NCCL's network layer loads verbs by dlvsym() and never links it. This library has the versioned
 * symbols that NCCL asks for, lists the devices of <tree>/sys/class/infiniband, takes every queue pair
 * through its states without a peer, and keeps the address vector of each transition to RTR, so that
 * a test can read which source GID index NCCL decided on, and how it addresses a peer over InfiniBand:
 * ports/<n>/lid is sysfs's, ports/<n>/flags (hexadecimal) are those of struct ibv_port_attr.
 *
 * It is also preloaded: NCCL reads GID types and PCI paths from the hard-coded /sys/class/infiniband.
 * open(), read() and realpath() under that prefix go to the tree. A kernel's gid_attrs/types/<n> of an
 * unused slot opens and then fails with EINVAL when read; here that is a file that is empty, or one that
 * is missing from a folder that is there.
 *
 * A GID table can also be given by calls instead of files: thousands of tables are then no files at all.
 *
 * Structures and prototypes are rdma-core's public <infiniband/verbs.h>.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <infiniband/verbs.h>

/* The header wraps these two; the ABI has the plain names. */
#undef ibv_query_port
#undef ibv_reg_mr

#define EXPORT __attribute__((visibility("default")))
#define PREFIX "/sys/class/infiniband/"
#define MAX_DEVICES 256
#define MAX_FDS 65536
#define MAX_TRANSITIONS 4096

/* ---- the tree -------------------------------------------------------------------------------- */

static char tree[PATH_MAX];

EXPORT void verbs_tree_set(const char *root)
{
	char *real = canonicalize_file_name(root);

	snprintf(tree, sizeof(tree), "%s", real ? real : root);
	free(real);
}

static int real_open(const char *path, int flags, mode_t mode)
{
	static int (*next)(const char *, int, ...);

	if (!next)
		next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
	return next(path, flags, mode);
}

static ssize_t real_read(int fd, void *buffer, size_t size)
{
	static ssize_t (*next)(int, void *, size_t);

	if (!next)
		next = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
	return next(fd, buffer, size);
}

/* Reads one attribute of a device, without its newline. Returns 0, or -1 with errno. */
static int attribute(const char *device, const char *name, char *text, size_t size)
{
	char path[PATH_MAX * 2];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "%s" PREFIX "%s/%s", tree, device, name);
	fd = real_open(path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	length = real_read(fd, text, size - 1);
	close(fd);
	if (length <= 0) {
		errno = EINVAL;
		return -1;
	}
	text[length] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

static int entries_of(const char *device, const char *name)
{
	char path[PATH_MAX * 2];
	struct dirent *entry;
	int count = 0;
	DIR *directory;

	snprintf(path, sizeof(path), "%s" PREFIX "%s/%s", tree, device, name);
	directory = opendir(path);
	if (!directory)
		return 0;
	while ((entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

/* ---- tables given by calls -------------------------------------------------------------------- */

struct slot {
	int index;
	union ibv_gid gid;
	char kind[32]; /* the text of its type; empty: reading it gives EINVAL */
};

struct table {
	char device[IBV_SYSFS_NAME_MAX];
	unsigned int port;
	int length, used;
	struct slot *slots;
};

static struct table tables[MAX_DEVICES];
static int table_count;

/* Starts the table of a port; verbs_slot_add() fills it. Returns 0, or -1 where there is no room. */
EXPORT int verbs_table_add(const char *device, unsigned int port, int length)
{
	struct table *table;

	if (table_count == MAX_DEVICES || length < 0)
		return -1;
	table = &tables[table_count++];
	snprintf(table->device, sizeof(table->device), "%s", device);
	table->port = port;
	table->length = length;
	table->used = 0;
	table->slots = calloc(length + 1, sizeof(*table->slots));
	return 0;
}

/* Adds an occupied slot to the table that was started last. Returns 0, or -1 for a bad one. */
EXPORT int verbs_slot_add(int index, const char *gid, const char *kind)
{
	struct table *table = &tables[table_count - 1];
	struct slot *slot;

	if (!table_count || table->used == table->length || index < 0 || index >= table->length)
		return -1;
	slot = &table->slots[table->used++];
	slot->index = index;
	snprintf(slot->kind, sizeof(slot->kind), "%s", kind);
	return inet_pton(AF_INET6, gid, slot->gid.raw) == 1 ? 0 : -1;
}

static const struct table *table_of(const char *device, unsigned int port)
{
	for (int i = 0; i < table_count; i++)
		if (tables[i].port == port && strcmp(tables[i].device, device) == 0)
			return &tables[i];
	return NULL;
}

static const struct slot *slot_of(const struct table *table, int index)
{
	for (int i = 0; i < table->used; i++)
		if (table->slots[i].index == index)
			return &table->slots[i];
	return NULL;
}

/* ---- interposed system calls ------------------------------------------------------------------ */

static atomic_uchar unreadable[MAX_FDS];

static int redirected(const char *path, char *target, size_t size)
{
	if (!tree[0] || strncmp(path, PREFIX, strlen(PREFIX)) != 0)
		return 0;
	snprintf(target, size, "%s%s", tree, path);
	return 1;
}

static int without_content(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 &&
	       (S_ISCHR(status.st_mode) || (S_ISREG(status.st_mode) && status.st_size == 0));
}

/* Opens gid_attrs/types/<n> of a table that was given by calls: 0, or -1 where the path is no such file. */
static int open_type(const char *path, int *fd)
{
	char device[IBV_SYSFS_NAME_MAX];
	const struct table *table;
	const struct slot *slot;
	unsigned int port;
	int index, end = 0;

	if (sscanf(path, PREFIX "%63[^/]/ports/%u/gid_attrs/types/%d%n", device, &port, &index, &end) != 3 ||
	    path[end] || !(table = table_of(device, port)))
		return -1;
	if (index >= table->length) {
		errno = ENOENT;
		*fd = -1;
		return 0;
	}
	slot = slot_of(table, index);
	if (!slot || !slot->kind[0]) {
		*fd = real_open("/dev/null", O_RDONLY | O_CLOEXEC, 0);
	} else {
		*fd = memfd_create("gid_type", MFD_CLOEXEC);
		if (*fd >= 0 && (dprintf(*fd, "%s\n", slot->kind) < 0 || lseek(*fd, 0, SEEK_SET) != 0))
			abort();
	}
	if (*fd >= 0 && *fd < MAX_FDS)
		unreadable[*fd] = !slot || !slot->kind[0];
	return 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	char target[PATH_MAX * 2];
	struct stat status;
	mode_t mode = 0;
	int fd;

	if (flags & (O_CREAT | O_TMPFILE)) {
		va_list arguments;

		va_start(arguments, flags);
		mode = va_arg(arguments, mode_t);
		va_end(arguments);
	}
	if (!redirected(path, target, sizeof(target))) {
		fd = real_open(path, flags, mode);
		if (fd >= 0 && fd < MAX_FDS)
			unreadable[fd] = 0;
		return fd;
	}
	if (open_type(path, &fd) == 0)
		return fd;
	fd = real_open(target, flags, mode);
	if (fd < 0 && errno == ENOENT && strstr(path, "/gid_attrs/")) {
		*strrchr(target, '/') = '\0';
		fd = stat(target, &status) == 0 ? real_open("/dev/null", O_RDONLY, 0) : -1;
	}
	if (fd >= 0 && fd < MAX_FDS)
		unreadable[fd] = without_content(fd);
	return fd;
}

EXPORT ssize_t read(int fd, void *buffer, size_t size)
{
	/* A descriptor number may have been reused by another call than open(); look again. */
	if (fd >= 0 && fd < MAX_FDS && unreadable[fd] && without_content(fd)) {
		errno = EINVAL;
		return -1;
	}
	return real_read(fd, buffer, size);
}

EXPORT char *realpath(const char *path, char *resolved)
{
	char target[PATH_MAX * 2];
	size_t length = strlen(tree);
	char *real;

	/* Not dlsym(): that finds glibc's oldest realpath, which refuses a NULL buffer. */
	if (!redirected(path, target, sizeof(target))) {
		real = canonicalize_file_name(path);
	} else {
		real = canonicalize_file_name(target);
		if (real && strncmp(real, tree, length) == 0)
			memmove(real, real + length, strlen(real + length) + 1);
	}
	if (real && resolved) {
		snprintf(resolved, PATH_MAX, "%s", real);
		free(real);
		return resolved;
	}
	return real;
}

/* ---- devices ---------------------------------------------------------------------------------- */

static int natural(const void *left, const void *right)
{
	return strverscmp(*(char *const *)left, *(char *const *)right);
}

/* The verbs node of a device, "uverbs3"; 0 when it has one. */
static int verbs_node(const char *device, char *node, size_t size)
{
	char path[PATH_MAX * 2], name[128];
	struct dirent *entry;
	DIR *directory;
	int found = -1;

	snprintf(path, sizeof(path), "%s/sys/class/infiniband_verbs", tree);
	directory = opendir(path);
	if (!directory)
		return -1;
	while (found && (entry = readdir(directory))) {
		FILE *file;

		if (strncmp(entry->d_name, "uverbs", 6) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/sys/class/infiniband_verbs/%s/ibdev", tree,
			 entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%127s", name) == 1 && strcmp(name, device) == 0) {
			snprintf(node, size, "%s", entry->d_name);
			found = 0;
		}
		fclose(file);
	}
	closedir(directory);
	return found;
}

EXPORT struct ibv_device **ibv_get_device_list(int *count)
{
	char path[PATH_MAX * 2], *names[MAX_DEVICES];
	struct ibv_device **list;
	struct dirent *entry;
	DIR *directory;
	int total = 0, listed = 0;

	*count = 0;
	snprintf(path, sizeof(path), "%s" PREFIX, tree);
	directory = opendir(path);
	if (!directory)
		return NULL;
	while (total < MAX_DEVICES && (entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			names[total++] = strdup(entry->d_name);
	closedir(directory);
	qsort(names, total, sizeof(names[0]), natural);
	list = calloc(total + 1, sizeof(*list));
	for (int i = 0; i < total; i++) {
		struct stat status;
		char node[NAME_MAX + 1];

		/* libibverbs lists a device only where its /dev/infiniband node exists. */
		if (verbs_node(names[i], node, sizeof(node)) == 0) {
			snprintf(path, sizeof(path), "%s/dev/infiniband/%s", tree, node);
			if (stat(path, &status) == 0) {
				struct ibv_device *device = calloc(1, sizeof(*device));

				device->node_type = IBV_NODE_CA;
				device->transport_type = IBV_TRANSPORT_IB;
				snprintf(device->name, sizeof(device->name), "%s", names[i]);
				snprintf(device->dev_name, sizeof(device->dev_name), "%s", node);
				snprintf(device->dev_path, sizeof(device->dev_path),
					 "/sys/class/infiniband_verbs/%s", device->dev_name);
				snprintf(device->ibdev_path, sizeof(device->ibdev_path),
					 PREFIX "%s", device->name);
				list[listed++] = device;
			}
		}
		free(names[i]);
	}
	*count = listed;
	return list;
}

EXPORT void ibv_free_device_list(struct ibv_device **list)
{
	/* The devices stay: contexts point to them for the life of the process. */
	free(list);
}

EXPORT const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

static int no_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	(void)qp, (void)wr, (void)bad;
	return 0;
}

static int no_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	(void)qp, (void)wr, (void)bad;
	return 0;
}

static int no_completion(struct ibv_cq *cq, int count, struct ibv_wc *wc)
{
	(void)cq, (void)count, (void)wc;
	return 0;
}

EXPORT struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	char path[PATH_MAX * 2];
	struct ibv_context *context;
	int refused = 0;
	FILE *node;

	/* The node file holds the errno with which opening it is refused, or nothing. */
	snprintf(path, sizeof(path), "%s/dev/infiniband/%s", tree, device->dev_name);
	node = fopen(path, "re");
	if (node) {
		if (fscanf(node, "%d", &refused) != 1)
			refused = 0;
		fclose(node);
	}
	if (refused) {
		errno = refused;
		return NULL;
	}
	context = calloc(1, sizeof(*context));
	context->device = device;
	context->cmd_fd = context->async_fd = -1;
	context->ops.post_send = no_post_send;
	context->ops.post_recv = no_post_recv;
	context->ops.poll_cq = no_completion;
	return context;
}

EXPORT int ibv_close_device(struct ibv_context *context)
{
	free(context);
	return 0;
}

EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	const char *device = context->device->name;
	unsigned int part[4];
	char text[128];

	memset(attr, 0, sizeof(*attr));
	if (attribute(device, "sys_image_guid", text, sizeof(text)) == 0 &&
	    sscanf(text, "%x:%x:%x:%x", &part[0], &part[1], &part[2], &part[3]) == 4)
		attr->sys_image_guid = (uint64_t)part[0] << 48 | (uint64_t)part[1] << 32 |
				       (uint64_t)part[2] << 16 | part[3];
	attr->phys_port_cnt = entries_of(device, "ports");
	attr->max_qp = 1 << 17;
	attr->max_cq = 1 << 17;
	attr->max_mr = 1 << 17;
	attr->max_qp_wr = 1 << 15;
	attr->max_cqe = 1 << 22;
	return 0;
}

EXPORT int ibv_query_port(struct ibv_context *context, uint8_t port,
			  struct _compat_ibv_port_attr *answer)
{
	const char *device = context->device->name;
	const struct table *table = table_of(device, port);
	struct ibv_port_attr attr = {0};
	char name[64], text[128];

	snprintf(name, sizeof(name), "ports/%u/state", port);
	if (attribute(device, name, text, sizeof(text)) != 0)
		return EINVAL;
	attr.state = atoi(text);
	snprintf(name, sizeof(name), "ports/%u/link_layer", port);
	if (attribute(device, name, text, sizeof(text)) == 0)
		attr.link_layer = strcmp(text, "Ethernet") == 0 ? IBV_LINK_LAYER_ETHERNET :
								  IBV_LINK_LAYER_INFINIBAND;
	snprintf(name, sizeof(name), "ports/%u/gids", port);
	attr.gid_tbl_len = table ? table->length : entries_of(device, name);
	attr.max_mtu = IBV_MTU_4096;
	attr.active_mtu = IBV_MTU_1024;
	attr.active_speed = 32; /* EDR */
	attr.active_width = 2;	/* 4x */
	attr.pkey_tbl_len = 1;
	snprintf(name, sizeof(name), "ports/%u/lid", port);
	attr.lid = attribute(device, name, text, sizeof(text)) == 0 ? strtoul(text, NULL, 16) : 1;
	snprintf(name, sizeof(name), "ports/%u/flags", port);
	attr.flags = attribute(device, name, text, sizeof(text)) == 0 ? strtoul(text, NULL, 16) : 0;
	/* The symbol of IBVERBS_1.1 fills the structure only up to its first extension. */
	memcpy(answer, &attr, offsetof(struct ibv_port_attr, port_cap_flags2));
	return 0;
}

EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	const struct table *table = table_of(context->device->name, port);
	char name[64], text[128];

	if (table) {
		const struct slot *slot = slot_of(table, index);

		memset(gid, 0, sizeof(*gid));
		if (slot)
			*gid = slot->gid;
		return index >= 0 && index < table->length ? 0 : -1;
	}
	snprintf(name, sizeof(name), "ports/%u/gids/%d", port, index);
	if (attribute(context->device->name, name, text, sizeof(text)) != 0 ||
	    inet_pton(AF_INET6, text, gid->raw) != 1)
		return -1;
	return 0;
}

EXPORT int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
	(void)context, (void)port;
	if (index != 0)
		return -1;
	*pkey = htons(0xffff);
	return 0;
}

/* ---- objects without a wire ------------------------------------------------------------------- */

EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	pd->context = context;
	return pd;
}

EXPORT int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
	static atomic_uint key = 1;
	struct ibv_mr *mr = calloc(1, sizeof(*mr));

	(void)access;
	mr->context = pd->context;
	mr->pd = pd;
	mr->addr = address;
	mr->length = length;
	mr->lkey = mr->rkey = key++;
	return mr;
}

EXPORT int ibv_dereg_mr(struct ibv_mr *mr)
{
	free(mr);
	return 0;
}

EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int vector)
{
	struct ibv_cq *cq = calloc(1, sizeof(*cq));

	(void)vector;
	cq->context = context;
	cq->channel = channel;
	cq->cq_context = cq_context;
	cq->cqe = cqe;
	return cq;
}

EXPORT int ibv_destroy_cq(struct ibv_cq *cq)
{
	free(cq);
	return 0;
}

EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	static atomic_uint number = 1;
	struct ibv_qp *qp = calloc(1, sizeof(*qp));

	qp->context = pd->context;
	qp->qp_context = attr->qp_context;
	qp->pd = pd;
	qp->send_cq = attr->send_cq;
	qp->recv_cq = attr->recv_cq;
	qp->qp_type = attr->qp_type;
	qp->qp_num = number++;
	qp->state = IBV_QPS_RESET;
	return qp;
}

EXPORT int ibv_destroy_qp(struct ibv_qp *qp)
{
	free(qp);
	return 0;
}

EXPORT int ibv_query_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask,
			struct ibv_qp_init_attr *init)
{
	(void)mask;
	memset(attr, 0, sizeof(*attr));
	memset(init, 0, sizeof(*init));
	attr->qp_state = qp->state;
	return 0;
}

/* What NCCL asked for when it took a queue pair to RTR: the fields a test wants to see. */
struct verbs_transition {
	char device[IBV_SYSFS_NAME_MAX];
	uint32_t port;
	uint32_t sgid_index;
	uint8_t dgid[16];
	uint16_t dlid, pkey_index;
	uint8_t is_global, sl, hop_limit, traffic_class;
};

static struct verbs_transition transitions[MAX_TRANSITIONS];
static atomic_uint transition_count;

EXPORT unsigned int verbs_transition_count(void)
{
	return transition_count;
}

EXPORT const struct verbs_transition *verbs_transition_at(unsigned int position)
{
	return &transitions[position % MAX_TRANSITIONS];
}

EXPORT void verbs_transitions_clear(void)
{
	transition_count = 0;
}

EXPORT int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	if (mask & IBV_QP_STATE)
		qp->state = attr->qp_state;
	if (mask & IBV_QP_PKEY_INDEX)
		qp->handle = attr->pkey_index;
	if (mask & IBV_QP_AV) {
		struct verbs_transition *entry = &transitions[transition_count % MAX_TRANSITIONS];

		snprintf(entry->device, sizeof(entry->device), "%s", qp->context->device->name);
		entry->port = attr->ah_attr.port_num;
		entry->sgid_index = attr->ah_attr.grh.sgid_index;
		memcpy(entry->dgid, attr->ah_attr.grh.dgid.raw, sizeof(entry->dgid));
		entry->dlid = attr->ah_attr.dlid;
		entry->pkey_index = qp->handle;
		entry->is_global = attr->ah_attr.is_global;
		entry->sl = attr->ah_attr.sl;
		entry->hop_limit = attr->ah_attr.grh.hop_limit;
		entry->traffic_class = attr->ah_attr.grh.traffic_class;
		transition_count++;
	}
	return 0;
}

/* ---- the rest of what NCCL looks up ----------------------------------------------------------- */

EXPORT int ibv_fork_init(void)
{
	return 0;
}

EXPORT int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	(void)context, (void)event;
	for (;;)
		pause();
}

EXPORT void ibv_ack_async_event(struct ibv_async_event *event)
{
	(void)event;
}

EXPORT const char *ibv_event_type_str(enum ibv_event_type event)
{
	(void)event;
	return "event";
}

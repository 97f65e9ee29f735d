/* A libibverbs.so.1 of one InfiniBand subnet: ports in files, queue pairs that find each other by LID, GID and P_Key.
 *
 * $SUBNET/ports/<device> holds "state LID prefix GUID flags P_Key,P_Key,..." in hexadecimal, for port 1. A queue pair
 * in INIT is a file $SUBNET/pairs/<LID>-<number>, with the GID and where its receives are; in it is also what a GID
 * reaches. A packet goes to the pair of the address vector: process_vm_writev() copies it there. One that finds nobody,
 * or is of another partition, is not answered: status 12, as after all retries. Each address vector is appended to
 * $SUBNET/handles as it came. What a router would do, that is what the FLID does: it reaches every LID behind it.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <dirent.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_reg_mr

#define PAIRS 512
#define RECEIVES 4

/* What the file of a queue pair holds. */
struct shown {
	int pid;
	uint16_t pkey;
	union ibv_gid gid;
	int receives;
	struct { uint64_t addr; uint32_t length; } into[RECEIVES];
};

struct pair {
	struct ibv_qp qp;
	struct shown shown;
	struct ibv_ah_attr to;
	uint32_t peer;
	int taken, used;
	char file[600];
};

struct port {
	unsigned int state, lid, flags, pkeys;
	uint16_t pkey[16];
	union ibv_gid gid;
};

static struct pair pairs[PAIRS];
static struct ibv_device *list[65], devices[64];
static struct ibv_wc done[1024];
static void *queue_of[1024];
static unsigned int completed;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* the ends of a node are threads */

static const char *subnet(void) { return getenv("SUBNET"); }

static int read_port(const char *device, struct port *port)
{
	unsigned long long prefix, guid;
	char path[512], keys[256], *key;
	FILE *file;
	int read;

	snprintf(path, sizeof(path), "%s/ports/%s", subnet(), device);
	file = fopen(path, "r");
	if (!file)
		return ENODEV;
	memset(port, 0, sizeof(*port));
	read = fscanf(file, "%x %x %llx %llx %x %255s", &port->state, &port->lid, &prefix, &guid, &port->flags, keys);
	fclose(file);
	if (read != 6)
		return EIO;
	port->gid.global.subnet_prefix = htobe64(prefix);
	port->gid.global.interface_id = htobe64(guid);
	for (key = strtok(keys, ","); key && port->pkeys < 16; key = strtok(NULL, ","))
		port->pkey[port->pkeys++] = strtoul(key, NULL, 16);
	return 0;
}

struct ibv_device **ibv_get_device_list(int *count)
{
	char path[512];
	struct dirent *entry;
	DIR *directory;
	int found = 0;

	snprintf(path, sizeof(path), "%s/ports", subnet());
	directory = opendir(path);
	while (directory && (entry = readdir(directory)) && found < 64)
		if (entry->d_name[0] != '.') {
			snprintf(devices[found].name, sizeof(devices[found].name), "%.63s", entry->d_name);
			list[found] = &devices[found];
			found++;
		}
	*count = found;
	return list;
}

const char *ibv_get_device_name(struct ibv_device *device) { return device->name; }

int ibv_query_port(struct ibv_context *context, uint8_t number, struct _compat_ibv_port_attr *compat)
{
	struct ibv_port_attr *attributes = (struct ibv_port_attr *)compat;
	struct port port;
	int failed = read_port(context->device->name, &port);

	(void)number;
	memset(attributes, 0, offsetof(struct ibv_port_attr, port_cap_flags2));
	attributes->state = port.state;
	attributes->max_mtu = attributes->active_mtu = IBV_MTU_4096;
	attributes->lid = port.lid;
	attributes->sm_lid = 1;
	attributes->gid_tbl_len = 8;
	attributes->pkey_tbl_len = port.pkeys;
	attributes->flags = port.flags;
	attributes->link_layer = IBV_LINK_LAYER_INFINIBAND;
	return failed;
}

int ibv_query_gid(struct ibv_context *context, uint8_t number, int index, union ibv_gid *gid)
{
	struct port port;

	(void)number;
	if (read_port(context->device->name, &port))
		return -1;
	memset(gid, 0, sizeof(*gid));
	if (index == 0 || index == 1)
		*gid = port.gid;
	return 0;
}

int ibv_query_pkey(struct ibv_context *context, uint8_t number, int index, __be16 *pkey)
{
	struct port port;

	(void)number;
	if (read_port(context->device->name, &port) || index >= (int)port.pkeys)
		return -1;
	*pkey = htobe16(port.pkey[index]);
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *domain = calloc(1, sizeof(*domain));

	domain->context = context;
	return domain;
}

int ibv_dealloc_pd(struct ibv_pd *domain) { free(domain); return 0; }

struct ibv_mr *ibv_reg_mr(struct ibv_pd *domain, void *addr, size_t length, int access)
{
	struct ibv_mr *region = calloc(1, sizeof(*region));

	(void)access;
	region->pd = domain;
	region->addr = addr;
	region->length = length;
	region->lkey = region->rkey = 7;
	return region;
}

int ibv_dereg_mr(struct ibv_mr *region) { free(region); return 0; }

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int room, void *of, struct ibv_comp_channel *to, int vector)
{
	struct ibv_cq *queue = calloc(1, sizeof(*queue));

	(void)room, (void)of, (void)to, (void)vector;
	queue->context = context;
	return queue;
}

int ibv_destroy_cq(struct ibv_cq *queue) { free(queue); return 0; }

struct ibv_qp *ibv_create_qp(struct ibv_pd *domain, struct ibv_qp_init_attr *wanted)
{
	static int made;
	struct pair *pair;

	pthread_mutex_lock(&one_at_a_time);
	pair = &pairs[made % PAIRS];
	memset(pair, 0, sizeof(*pair));
	pair->qp.context = domain->context;
	pair->qp.send_cq = wanted->send_cq;
	pair->qp.qp_num = (getpid() * 64 + made++) & 0xffffff;
	pair->qp.qp_type = wanted->qp_type;
	pthread_mutex_unlock(&one_at_a_time);
	return &pair->qp;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	unlink(((struct pair *)qp)->file);
	return 0;
}

static int show(struct pair *pair)
{
	int file = open(pair->file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (file < 0 || write(file, &pair->shown, sizeof(pair->shown)) != sizeof(pair->shown))
		return EIO;
	close(file);
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *to, int mask)
{
	struct pair *pair = (struct pair *)qp;
	struct port port;
	char path[512];
	int file;

	if (read_port(qp->context->device->name, &port))
		return ENODEV;
	if (mask & IBV_QP_PKEY_INDEX) {
		if (to->pkey_index >= port.pkeys) /* as mlx5_ib_modify_qp() */
			return EINVAL;
		pair->shown.pid = getpid();
		pair->shown.gid = port.gid;
		pair->shown.pkey = port.pkey[to->pkey_index];
		snprintf(pair->file, sizeof(pair->file), "%s/pairs/%x-%x", subnet(), port.lid, qp->qp_num);
		return show(pair);
	}
	if (!(mask & IBV_QP_AV))
		return 0;
	pair->to = to->ah_attr;
	pair->peer = to->dest_qp_num;
	if (!to->ah_attr.is_global && !to->ah_attr.dlid)
		return EINVAL;
	snprintf(path, sizeof(path), "%s/handles", subnet());
	file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (file < 0 || write(file, &to->ah_attr, sizeof(to->ah_attr)) != sizeof(to->ah_attr))
		return EIO;
	close(file);
	return 0;
}

/* Finds the peer: its LID, or, behind a router, the one whose GID it is. */
static int find(struct pair *pair, struct shown *peer)
{
	char path[1024], end[32];
	struct dirent *entry;
	unsigned int lid, number;
	DIR *directory;
	int file, found = 0;

	snprintf(path, sizeof(path), "%s/pairs", subnet());
	snprintf(end, sizeof(end), "-%x", pair->peer);
	directory = opendir(path);
	while (directory && !found && (entry = readdir(directory))) {
		if (sscanf(entry->d_name, "%x-%x", &lid, &number) != 2 || number != pair->peer)
			continue;
		snprintf(path, sizeof(path), "%s/pairs/%s", subnet(), entry->d_name);
		file = open(path, O_RDONLY);
		if (file < 0)
			continue;
		if (read(file, peer, sizeof(*peer)) == sizeof(*peer)) {
			uint16_t flid = be16toh(*(uint16_t *)(peer->gid.raw + 4));
			int routed = pair->to.is_global && flid && flid == pair->to.dlid;

			found = (lid == pair->to.dlid || routed) &&
				(!pair->to.is_global || !memcmp(&peer->gid, &pair->to.grh.dgid, 16));
		}
		close(file);
	}
	if (directory)
		closedir(directory);
	return found;
}

static int same_subnet(const union ibv_gid *one, const union ibv_gid *other)
{
	return !memcmp(one->raw, other->raw, 4) && !memcmp(one->raw + 6, other->raw + 6, 2);
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *sent, struct ibv_send_wr **bad)
{
	struct pair *pair = (struct pair *)qp;
	struct ibv_wc *completion;
	struct iovec from, to;
	struct shown peer;
	uint16_t one = pair->shown.pkey, other;
	int arrived;

	(void)bad;
	arrived = find(pair, &peer);
	other = arrived ? peer.pkey : 0;
	arrived = arrived && (one & 0x7fff) && (one & 0x7fff) == (other & 0x7fff) && ((one | other) & 0x8000);
	arrived = arrived && (pair->to.is_global || same_subnet(&pair->shown.gid, &peer.gid));
	if (arrived) {
		from.iov_base = (void *)sent->sg_list->addr;
		to.iov_len = from.iov_len = sent->sg_list->length;
		to.iov_base = (void *)(sent->opcode == IBV_WR_RDMA_WRITE ? sent->wr.rdma.remote_addr
									: peer.into[pair->taken++].addr);
		arrived = process_vm_writev(peer.pid, &from, 1, &to, 1, 0) == (ssize_t)from.iov_len;
	}
	pthread_mutex_lock(&one_at_a_time);
	completion = &done[completed % 1024];
	memset(completion, 0, sizeof(*completion));
	completion->wr_id = sent->wr_id;
	completion->status = arrived ? IBV_WC_SUCCESS : pair->used ? IBV_WC_WR_FLUSH_ERR : IBV_WC_RETRY_EXC_ERR;
	pair->used |= !arrived;
	queue_of[completed++ % 1024] = qp->send_cq;
	pthread_mutex_unlock(&one_at_a_time);
	return 0;
}

static int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wanted, struct ibv_recv_wr **bad)
{
	struct pair *pair = (struct pair *)qp;
	int number = pair->shown.receives++;

	(void)bad;
	pair->shown.into[number].addr = wanted->sg_list->addr;
	pair->shown.into[number].length = wanted->sg_list->length;
	return show(pair);
}

static int poll_cq(struct ibv_cq *queue, int most, struct ibv_wc *found)
{
	unsigned int one;
	int count = 0;

	pthread_mutex_lock(&one_at_a_time);
	for (one = completed > 1024 ? completed - 1024 : 0; one < completed && count < most; one++)
		if (queue_of[one % 1024] == queue) {
			found[count++] = done[one % 1024];
			queue_of[one % 1024] = NULL;
		}
	pthread_mutex_unlock(&one_at_a_time);
	return count;
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct ibv_context *context = calloc(1, sizeof(*context));

	context->device = device;
	context->ops.poll_cq = poll_cq;
	context->ops.post_send = post_send;
	context->ops.post_recv = post_recv;
	return context;
}

int ibv_close_device(struct ibv_context *context) { free(context); return 0; }

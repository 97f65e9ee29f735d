/*
 * A libibverbs.so.1 with eight HCAs whose queue pairs carry what is posted, from one to another of the same process.
 * Structures and prototypes are rdma-core's own header. A queue pair that is told a peer of another process loses all.
 * No more memory can be registered at once than the proof may pin.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef ibv_query_port
#undef ibv_reg_mr

#define HCAS 8
#define PAIRS 1024
#define DEPTH 8
#define PAGE 4096
#define LOCKABLE ((1 << 20) - 1)

struct queue {
	struct ibv_cq cq;
	struct ibv_wc done[2 * DEPTH];
	int count;
};

struct pair {
	struct ibv_qp qp;
	uint32_t peer;
	struct ibv_sge room[DEPTH];
	int received, posted;
};

static struct ibv_device devices[HCAS];
static struct ibv_device *list[HCAS + 1];
static struct pair *pairs[PAIRS];
static uint32_t made;
static size_t locked;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int poll_cq(struct ibv_cq *cq, int most, struct ibv_wc *done)
{
	struct queue *queue = (struct queue *)cq;
	int count;

	pthread_mutex_lock(&lock);
	count = queue->count < most ? queue->count : most;
	memcpy(done, queue->done, count * sizeof(*done));
	queue->count = 0;
	pthread_mutex_unlock(&lock);
	return count;
}

static int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *request, struct ibv_recv_wr **bad)
{
	struct pair *pair = (struct pair *)qp;

	if (pair->posted == DEPTH)
		return ENOMEM;
	pair->room[pair->posted++] = *request->sg_list;
	return 0;
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *request, struct ibv_send_wr **bad)
{
	struct queue *queue = (struct queue *)qp->send_cq;
	struct ibv_sge *from = request->sg_list;
	uint32_t number = ((struct pair *)qp)->peer;
	struct pair *peer = number < PAIRS ? pairs[number] : NULL;
	struct ibv_wc done = {.wr_id = request->wr_id, .status = IBV_WC_SUCCESS};
	void *to = NULL;

	pthread_mutex_lock(&lock);
	if (request->opcode == IBV_WR_RDMA_WRITE)
		to = peer ? (void *)request->wr.rdma.remote_addr : NULL;
	else if (peer && peer->received < peer->posted && peer->room[peer->received].length >= from->length)
		to = (void *)peer->room[peer->received++].addr;
	if (to)
		memcpy(to, (void *)from->addr, from->length);
	else
		done.status = IBV_WC_RETRY_EXC_ERR;
	queue->done[queue->count++] = done;
	pthread_mutex_unlock(&lock);
	return 0;
}

struct ibv_device **ibv_get_device_list(int *count)
{
	for (*count = 0; *count < HCAS; ++*count) {
		list[*count] = &devices[*count];
		snprintf(devices[*count].name, sizeof(devices[0].name), "mlx5_%d", *count);
	}
	return list;
}

const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
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

int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *old)
{
	struct ibv_port_attr *attributes = (struct ibv_port_attr *)old;

	attributes->state = IBV_PORT_ACTIVE;
	attributes->active_mtu = IBV_MTU_4096;
	return 0;
}

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	memset(gid, index + 1, sizeof(*gid));
	return 0;
}

int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
	*pkey = 0xffff;
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	return calloc(1, sizeof(struct ibv_pd));
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
	struct ibv_mr *region = calloc(1, sizeof(*region));

	region->length = (length + PAGE - 1) / PAGE * PAGE;
	pthread_mutex_lock(&lock);
	locked += region->length;
	if (locked > LOCKABLE) {
		locked -= region->length;
		free(region);
		region = NULL;
		errno = ENOMEM;
	}
	pthread_mutex_unlock(&lock);
	return region;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *of, struct ibv_comp_channel *channel, int vector)
{
	return calloc(1, sizeof(struct queue));
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *wanted)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	pthread_mutex_lock(&lock);
	pair->qp.send_cq = wanted->send_cq;
	pair->qp.qp_num = ++made;
	if (made < PAIRS)
		pairs[made] = pair;
	pthread_mutex_unlock(&lock);
	return &pair->qp;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attributes, int mask)
{
	if (mask & IBV_QP_DEST_QPN)
		((struct pair *)qp)->peer = attributes->dest_qp_num;
	return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	pthread_mutex_lock(&lock);
	if (qp->qp_num < PAIRS)
		pairs[qp->qp_num] = NULL;
	pthread_mutex_unlock(&lock);
	free(qp);
	return 0;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	free(cq);
	return 0;
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	pthread_mutex_lock(&lock);
	locked -= mr->length;
	pthread_mutex_unlock(&lock);
	free(mr);
	return 0;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

int ibv_close_device(struct ibv_context *context)
{
	free(context);
	return 0;
}

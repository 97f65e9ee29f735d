"""The structures and numbers of ``infiniband/verbs.h`` (rdma-core, ``libibverbs/verbs.h``) that RC traffic needs.

They are the ABI of ``IBVERBS_1.1``, the same from rdma-core 14 to 65 on every machine of 64 bits; ``tests/verbs``
compares each field with the headers as a compiler sees them. Where the rest of a structure is the library's
own or has grown, only its beginning is declared, and not listed in :data:`SIZES`.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_int,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any


def _all(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class Gid(Union):
    """``union ibv_gid``: 16 bytes in network order, aligned as two numbers of 64 bits."""

    _fields_ = (("raw", c_uint8 * 16), ("halves", c_uint64 * 2))


class PortAttributes(Structure):
    """``struct ibv_port_attr`` to ``flags``, which rdma-core leaves zero before 20.

    ``port_cap_flags2`` came with rdma-core 22 (52 bytes), ``active_speed_ex`` with 49 (56). The exported
    ``ibv_query_port`` writes the first 48 bytes, whatever the release (``verbs.c``, ``__lib_query_port`` copies
    ``offsetof(port_cap_flags2)``); ``room`` is never read.
    """

    _fields_ = (
        *_all(c_int, "state max_mtu active_mtu gid_tbl_len"),
        *_all(c_uint32, "port_cap_flags max_msg_sz bad_pkey_cntr qkey_viol_cntr"),
        *_all(c_uint16, "pkey_tbl_len lid sm_lid"),
        *_all(c_uint8, "lmc max_vl_num sm_sl subnet_timeout init_type_reply"),
        *_all(c_uint8, "active_width active_speed phys_state link_layer flags"),
        ("room", c_uint8 * 80),
    )


class QpCapabilities(Structure):
    """``struct ibv_qp_cap``."""

    _fields_ = _all(c_uint32, "max_send_wr max_recv_wr max_send_sge max_recv_sge max_inline_data")


class QpInitAttributes(Structure):
    """``struct ibv_qp_init_attr``."""

    _fields_ = (
        *_all(c_void_p, "qp_context send_cq recv_cq srq"),
        ("cap", QpCapabilities),
        *_all(c_int, "qp_type sq_sig_all"),
    )


class GlobalRoute(Structure):
    """``struct ibv_global_route``."""

    _fields_ = (("dgid", Gid), ("flow_label", c_uint32), *_all(c_uint8, "sgid_index hop_limit traffic_class"))


class AddressHandle(Structure):
    """``struct ibv_ah_attr``."""

    _fields_ = (
        ("grh", GlobalRoute),
        ("dlid", c_uint16),
        *_all(c_uint8, "sl src_path_bits static_rate is_global port_num"),
    )


class QpAttributes(Structure):
    """``struct ibv_qp_attr``."""

    _fields_ = (
        *_all(c_int, "qp_state cur_qp_state path_mtu path_mig_state"),
        *_all(c_uint32, "qkey rq_psn sq_psn dest_qp_num qp_access_flags"),
        ("cap", QpCapabilities),
        ("ah_attr", AddressHandle),
        ("alt_ah_attr", AddressHandle),
        *_all(c_uint16, "pkey_index alt_pkey_index"),
        *_all(c_uint8, "en_sqd_async_notify sq_draining max_rd_atomic max_dest_rd_atomic min_rnr_timer port_num"),
        *_all(c_uint8, "timeout retry_cnt rnr_retry alt_port_num alt_timeout"),
        ("rate_limit", c_uint32),
    )


class Segment(Structure):
    """``struct ibv_sge``."""

    _fields_ = (("addr", c_uint64), *_all(c_uint32, "length lkey"))


class SendRequest(Structure):
    """``struct ibv_send_wr``; ``tail`` are the unions behind ``wr.rdma``, zero for a SEND or WRITE over RC."""

    _fields_ = (
        ("wr_id", c_uint64),
        ("next", c_void_p),
        ("sg_list", POINTER(Segment)),
        *_all(c_int, "num_sge opcode"),
        *_all(c_uint32, "send_flags imm_data"),
        ("remote_addr", c_uint64),
        ("rkey", c_uint32),
        ("tail", c_uint8 * 76),
    )


class ReceiveRequest(Structure):
    """``struct ibv_recv_wr``."""

    _fields_ = (("wr_id", c_uint64), ("next", c_void_p), ("sg_list", POINTER(Segment)), ("num_sge", c_int))


class Completion(Structure):
    """``struct ibv_wc``."""

    _fields_ = (
        ("wr_id", c_uint64),
        *_all(c_int, "status opcode"),
        *_all(c_uint32, "vendor_err byte_len imm_data qp_num src_qp wc_flags"),
        *_all(c_uint16, "pkey_index slid"),
        *_all(c_uint8, "sl dlid_path_bits"),
    )


class MemoryRegion(Structure):
    """``struct ibv_mr``."""

    _fields_ = (
        *_all(c_void_p, "context pd addr"),
        ("length", c_size_t),
        *_all(c_uint32, "handle lkey rkey"),
    )


class Qp(Structure):
    """``struct ibv_qp`` to ``qp_num``."""

    _fields_ = (*_all(c_void_p, "context qp_context pd send_cq recv_cq srq"), *_all(c_uint32, "handle qp_num"))


# ibv_poll_cq, ibv_post_send and ibv_post_recv are `static inline` in verbs.h: no library exports them. They call
# through the context, whose table a provider fills when the device is opened.
_POLL = CFUNCTYPE(c_int, c_void_p, c_int, POINTER(Completion))
_POST_SEND = CFUNCTYPE(c_int, POINTER(Qp), POINTER(SendRequest), POINTER(c_void_p))
_POST_RECEIVE = CFUNCTYPE(c_int, POINTER(Qp), POINTER(ReceiveRequest), POINTER(c_void_p))


class ContextOperations(Structure):
    """``struct ibv_context_ops``: 32 pointers, of which three are called here."""

    _fields_ = (
        ("before_poll_cq", c_void_p * 11),
        ("poll_cq", _POLL),
        ("before_post_send", c_void_p * 13),
        ("post_send", _POST_SEND),
        ("post_recv", _POST_RECEIVE),
        ("after_post_recv", c_void_p * 5),
    )


class Context(Structure):
    """``struct ibv_context`` to ``num_comp_vectors``."""

    _fields_ = (
        ("device", c_void_p),
        ("ops", ContextOperations),
        *_all(c_int, "cmd_fd async_fd num_comp_vectors"),
    )


#: What the structures that are declared whole must measure, in bytes, on a machine of 64 bits.
SIZES: dict[type[Structure | Union], int] = {
    Gid: 16,
    QpCapabilities: 20,
    QpInitAttributes: 64,
    GlobalRoute: 24,
    AddressHandle: 32,
    QpAttributes: 144,
    Segment: 16,
    SendRequest: 128,
    ReceiveRequest: 32,
    Completion: 48,
    MemoryRegion: 48,
    ContextOperations: 256,
}

MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}  # enum ibv_mtu
PORT_INIT, PORT_ARMED, PORT_ACTIVE = 2, 3, 4  # enum ibv_port_state
LINK_LAYER_INFINIBAND = 1
QPF_GRH_REQUIRED = 1  # enum ibv_query_port_flags
ACCESS_LOCAL_WRITE, ACCESS_REMOTE_WRITE = 1, 2  # enum ibv_access_flags
QPT_RC = 2  # enum ibv_qp_type
SEND_SIGNALED = 2  # enum ibv_send_flags
WR_RDMA_WRITE, WR_SEND = 0, 2  # enum ibv_wr_opcode
QPS_INIT, QPS_RTR, QPS_RTS = 1, 2, 3  # enum ibv_qp_state
# enum ibv_qp_attr_mask
QP_STATE, QP_ACCESS_FLAGS, QP_PKEY_INDEX, QP_PORT = 1 << 0, 1 << 3, 1 << 4, 1 << 5
QP_AV, QP_PATH_MTU, QP_TIMEOUT, QP_RETRY_CNT = 1 << 7, 1 << 8, 1 << 9, 1 << 10
QP_RNR_RETRY, QP_RQ_PSN, QP_MAX_QP_RD_ATOMIC, QP_MIN_RNR_TIMER = 1 << 11, 1 << 12, 1 << 13, 1 << 15
QP_SQ_PSN, QP_MAX_DEST_RD_ATOMIC, QP_DEST_QPN = 1 << 16, 1 << 17, 1 << 20
# enum ibv_wc_status
WC_SUCCESS, WC_LOC_QP_OP_ERR, WC_WR_FLUSH_ERR = 0, 2, 5
WC_REM_INV_REQ_ERR, WC_REM_ACCESS_ERR, WC_REM_OP_ERR, WC_RETRY_EXC_ERR = 9, 10, 11, 12


def unfit() -> str | None:
    """Return how this machine's structures differ from the ABI; ``None`` where they do not."""
    wrong = [
        f"{one.__name__} of {found} bytes, not {size}"
        for one, size in SIZES.items()
        if (found := ctypes.sizeof(one)) != size
    ]
    return ", ".join(wrong) or None

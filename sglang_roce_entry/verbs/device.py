"""An open HCA: its ports, registered memory and RC queue pairs, with the errno of every call kept."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from ctypes import POINTER, byref, c_int, c_size_t, c_uint8, c_uint16, c_void_p
from typing import Any

from sglang_roce_entry.verbs import layouts as ibv
from sglang_roce_entry.verbs.loading import Libibverbs, VerbsError

#: What each call returns and takes. Of a failure: a NULL pointer and errno; or a number, which is errno or -1.
_CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ibv_open_device": (POINTER(ibv.Context), (c_void_p,)),
    "ibv_close_device": (c_int, (c_void_p,)),
    "ibv_alloc_pd": (c_void_p, (c_void_p,)),
    "ibv_dealloc_pd": (c_int, (c_void_p,)),
    "ibv_query_port": (c_int, (c_void_p, c_uint8, POINTER(ibv.PortAttributes))),
    "ibv_query_gid": (c_int, (c_void_p, c_uint8, c_int, POINTER(ibv.Gid))),
    "ibv_query_pkey": (c_int, (c_void_p, c_uint8, c_int, POINTER(c_uint16))),
    "ibv_reg_mr": (POINTER(ibv.MemoryRegion), (c_void_p, c_void_p, c_size_t, c_int)),
    "ibv_dereg_mr": (c_int, (POINTER(ibv.MemoryRegion),)),
    "ibv_create_cq": (c_void_p, (c_void_p, c_int, c_void_p, c_void_p, c_int)),
    "ibv_destroy_cq": (c_int, (c_void_p,)),
    "ibv_create_qp": (POINTER(ibv.Qp), (c_void_p, POINTER(ibv.QpInitAttributes))),
    "ibv_destroy_qp": (c_int, (POINTER(ibv.Qp),)),
    "ibv_modify_qp": (c_int, (POINTER(ibv.Qp), POINTER(ibv.QpAttributes), c_int)),
}
#: Sends and receives of a queue pair, each.
_DEPTH = 4
#: Never used where receives are posted before the peer may send: 0.64 ms, six times.
_RNR_TIMER, _RNR_RETRIES = 12, 6


class Verbs:
    """The calls of libibverbs. Raises ``NotLoadedError``; ``VerbsError`` where its ABI is not the known one."""

    def __init__(self) -> None:
        unfit = ibv.unfit()
        if unfit is not None:
            raise VerbsError("layout", 0, unfit)
        library = Libibverbs()
        self._calls = {
            name: ctypes.CFUNCTYPE(result, *arguments, use_errno=True)(library.address(name))
            for name, (result, arguments) in _CALLS.items()
        }
        #: Read once: each reading scans all HCAs and loads every provider.
        self.devices = library.devices()

    @classmethod
    def unlocked(cls) -> Verbs:
        """Return them with as much memory to lock as the hard limit allows, as a launch does it for SGLang."""
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return cls()

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Return what the call ``name`` returns. Raises ``VerbsError``."""
        ctypes.set_errno(0)
        value = self._calls[name](*arguments)
        if _CALLS[name][0] is c_int:
            returned(name, value)
        elif not value:
            raise VerbsError(name, ctypes.get_errno())
        return value


def returned(call: str, value: int) -> None:
    """Raise ``VerbsError`` unless ``value`` is 0: verbs return errno, some providers -errno, or -1 with errno."""
    if value:
        raise VerbsError(call, ctypes.get_errno() if value == -1 else abs(value))


class Device:
    """An open HCA with a protection domain. ``node`` is its file in ``/dev/infiniband``, if that is known."""

    def __init__(self, verbs: Verbs, name: str, node: str = "") -> None:
        self.verbs, self.name = verbs, name
        if name not in verbs.devices:
            raise VerbsError("list", errno.ENODEV, f"listed: {', '.join(verbs.devices) or 'none'}")
        if node:
            _open_node(f"/dev/infiniband/{node}")
        self.context = verbs("ibv_open_device", verbs.devices[name])
        self.operations = self.context.contents.ops
        try:
            self.domain = verbs("ibv_alloc_pd", self.context)
        except VerbsError:
            verbs("ibv_close_device", self.context)
            raise

    def port(self, number: int) -> ibv.PortAttributes:
        """Return state, MTU and link layer of a port."""
        attributes = ibv.PortAttributes()
        self.verbs("ibv_query_port", self.context, number, byref(attributes))
        return attributes

    def gid(self, port: int, index: int) -> str:
        """Return the GID at ``index`` in 32 hexadecimal digits: zeros where the slot is empty."""
        gid = ibv.Gid()
        self.verbs("ibv_query_gid", self.context, port, index, byref(gid))
        return bytes(gid.raw).hex()

    def partition(self, port: int, index: int) -> int:
        """Return the P_Key in slot ``index`` of an InfiniBand port."""
        pkey = c_uint16()
        self.verbs("ibv_query_pkey", self.context, port, index, byref(pkey))
        return int.from_bytes(bytes(pkey), "big")  # a __be16

    def close(self) -> None:
        """Give the domain and the context back."""
        self.verbs("ibv_dealloc_pd", self.domain)
        self.verbs("ibv_close_device", self.context)


def _open_node(path: str) -> None:
    # ibv_open_device makes ENOENT of EACCES, and waits 5 s for udev before that where there is a /dev/char
    # (rdma-core, util/open_cdev.c).
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise VerbsError("open", error.errno or errno.EIO, path) from error


class Memory:
    """Pages of this process, and the regions registered in them."""

    def __init__(self, device: Device, size: int) -> None:
        self._device, self.pages = device, mmap.mmap(-1, size)
        self._anchor = ctypes.c_char.from_buffer(self.pages)
        self.address = ctypes.addressof(self._anchor)
        self._regions: list[Any] = []

    def register(self, offset: int, length: int, access: int) -> ibv.MemoryRegion:
        """Pin a part of the pages for the device."""
        device = self._device
        made = device.verbs("ibv_reg_mr", device.domain, self.address + offset, length, access)
        self._regions.append(made)
        region: ibv.MemoryRegion = made.contents
        return region

    def close(self) -> None:
        """Unpin and unmap them."""
        for region in self._regions:
            self._device.verbs("ibv_dereg_mr", region)
        del self._anchor
        self.pages.close()


class QueuePair:
    """An RC queue pair with a completion queue of its own."""

    def __init__(self, device: Device) -> None:
        self._verbs, self._operations = device.verbs, device.operations
        self._queue = device.verbs("ibv_create_cq", device.context, 2 * _DEPTH, None, None, 0)
        room = ibv.QpCapabilities(max_send_wr=_DEPTH, max_recv_wr=_DEPTH, max_send_sge=1, max_recv_sge=1)
        wanted = ibv.QpInitAttributes(send_cq=self._queue, recv_cq=self._queue, cap=room, qp_type=ibv.QPT_RC)
        try:
            self._pair = device.verbs("ibv_create_qp", device.domain, byref(wanted))
        except VerbsError:
            device.verbs("ibv_destroy_cq", self._queue)
            raise
        self.number = int(self._pair.contents.qp_num)

    def to_init(self, port: int, pkey_index: int) -> None:
        """RESET to INIT, in the partition of this slot: receives may be posted from here on."""
        attributes = ibv.QpAttributes(
            qp_state=ibv.QPS_INIT,
            pkey_index=pkey_index,
            port_num=port,
            qp_access_flags=ibv.ACCESS_REMOTE_WRITE,
        )
        mask = ibv.QP_STATE | ibv.QP_PKEY_INDEX | ibv.QP_PORT | ibv.QP_ACCESS_FLAGS
        self._verbs("ibv_modify_qp", self._pair, byref(attributes), mask)

    def to_rtr(self, route: ibv.AddressHandle, peer: int, psn: int, mtu: int) -> None:
        """INIT to RTR: the kernel looks for route and neighbour here, for a second at most."""
        attributes = ibv.QpAttributes(
            qp_state=ibv.QPS_RTR,
            path_mtu=mtu,
            dest_qp_num=peer,
            rq_psn=psn,
            max_dest_rd_atomic=1,
            min_rnr_timer=_RNR_TIMER,
            ah_attr=route,
        )
        mask = ibv.QP_STATE | ibv.QP_AV | ibv.QP_PATH_MTU | ibv.QP_DEST_QPN | ibv.QP_RQ_PSN
        mask |= ibv.QP_MAX_DEST_RD_ATOMIC | ibv.QP_MIN_RNR_TIMER
        self._verbs("ibv_modify_qp", self._pair, byref(attributes), mask)

    def to_rts(self, psn: int, timeout: int, retries: int) -> None:
        """RTR to RTS: sends may be posted from here on."""
        attributes = ibv.QpAttributes(
            qp_state=ibv.QPS_RTS,
            timeout=timeout,
            retry_cnt=retries,
            rnr_retry=_RNR_RETRIES,
            sq_psn=psn,
            max_rd_atomic=1,
        )
        mask = ibv.QP_STATE | ibv.QP_TIMEOUT | ibv.QP_RETRY_CNT | ibv.QP_RNR_RETRY
        mask |= ibv.QP_SQ_PSN | ibv.QP_MAX_QP_RD_ATOMIC
        self._verbs("ibv_modify_qp", self._pair, byref(attributes), mask)

    def receive(self, number: int, segment: ibv.Segment) -> None:
        """Post one buffer for what the peer sends."""
        request = ibv.ReceiveRequest(wr_id=number, sg_list=ctypes.pointer(segment), num_sge=1)
        returned("ibv_post_recv", self._operations.post_recv(self._pair, byref(request), byref(c_void_p())))

    def send(self, number: int, segment: ibv.Segment, *, to: int = 0, rkey: int = 0) -> None:
        """Post one SEND, or an RDMA WRITE where ``to`` is given."""
        request = ibv.SendRequest(
            wr_id=number,
            sg_list=ctypes.pointer(segment),
            num_sge=1,
            send_flags=ibv.SEND_SIGNALED,
            opcode=ibv.WR_RDMA_WRITE if to else ibv.WR_SEND,
            remote_addr=to,
            rkey=rkey,
        )
        returned("ibv_post_send", self._operations.post_send(self._pair, byref(request), byref(c_void_p())))

    def completions(self) -> list[ibv.Completion]:
        """Return the completions that are there now."""
        found = (ibv.Completion * (2 * _DEPTH))()
        count = self._operations.poll_cq(self._queue, len(found), found)
        if not 0 <= count <= len(found):
            raise VerbsError("ibv_poll_cq", abs(count) if -4096 < count < -1 else errno.EIO)
        return list(found[:count])

    def close(self) -> None:
        """Destroy the pair and its queue."""
        self._verbs("ibv_destroy_qp", self._pair)
        self._verbs("ibv_destroy_cq", self._queue)

"""One end of an RC exchange, step by step.

Both ends do the same at the same time: SEND 64 bytes, SEND three packets, RDMA WRITE the same three elsewhere. The
completions tell whether this end's packets were acknowledged, and its memory what of the peer's arrived: with one
direction dead both ends see RETRY_EXC, since acknowledgements travel in the other.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

from sglang_roce_entry.verbs import layouts as ibv
from sglang_roce_entry.verbs.addressing import UndecidedError, address_of_peer
from sglang_roce_entry.verbs.device import Device, Memory, QueuePair
from sglang_roce_entry.verbs.loading import VerbsError
from sglang_roce_entry.verbs.messages import SMALL_BYTES, Offer, Rail, Seen

_PAGE = 4096
#: wr_id of receives, so that sends are 0, 1 and 2.
_RECEIVES = 10
#: RoCE v2's port. A UDP socket that is connected to it sends nothing, and asks the routes.
_ROCE_PORT = 4791
_IPV4 = "00000000000000000000ffff"
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)

# What a failed call stands for: by the call and its errno; by the call alone.
_CAUSES: dict[tuple[str, int], str] = {
    ("open", errno.EACCES): "DEVICE_DENIED",
    ("open", errno.EPERM): "DEVICE_DENIED",
    ("open", errno.ENOENT): "NO_DEVICE_NODE",
    ("open", errno.ENXIO): "NO_DEVICE_NODE",
    ("open", errno.ENODEV): "NO_DEVICE_NODE",
    # EPERM: a limit of 0 (ib_umem_get, drivers/infiniband/core/umem.c).
    **{
        (call, number): "MEMLOCK"
        for call in ("ibv_reg_mr", "ibv_create_cq", "ibv_create_qp")
        for number in (errno.ENOMEM, errno.EPERM)
    },
    ("rtr", errno.ETIMEDOUT): "NO_NEIGHBOUR",
    ("rtr", errno.ENETUNREACH): "NO_ROUTE",
    ("rtr", errno.EHOSTUNREACH): "NO_ROUTE",
    ("rtr", errno.EINVAL): "GID_REFUSED",
    ("rtr", errno.EADDRNOTAVAIL): "GID_REFUSED",
    ("rtr", errno.ENODATA): "GID_REFUSED",
    ("rtr by LID", errno.EINVAL): "LID_REFUSED",
}
_OTHERWISE = {"list": "NO_PROVIDER", "ibv_create_qp": "QP_REFUSED", "ibv_query_gid": "NO_GID"}


@dataclass(frozen=True, slots=True)
class Times:
    """How long a packet is tried: 4.096 us << ``timeout``, and ``retries`` times more.

    After ``sends_s`` no completion is awaited any more. 7 retries are without end on soft-RoCE, 6 nowhere.
    ``connects``: how often a neighbour is awaited, for a second each.
    """

    timeout: int
    retries: int
    sends_s: float
    connects: int = 2


#: RETRY_EXC after 0.5 s; bears 100 ms of delay each way and 20 % of loss.
FIRST = Times(14, 6, 2.0)
#: RETRY_EXC after 7.5 s: for what a busy CPU or a burst alone can cause.
PATIENT = Times(18, 6, 10.0, 6)


class StoppedError(Exception):
    """An end that cannot go on, by the name of the cause."""

    def __init__(self, cause: str, number: int = 0, detail: str = "") -> None:
        super().__init__(cause, number, detail)
        self.cause, self.number, self.detail = cause, number, detail


class End:
    """One end of an exchange.

    The steps in their order: :meth:`offer`, :meth:`connect`, :meth:`send`, :meth:`collect` until it returns true,
    :meth:`look`; each may raise ``VerbsError`` or :class:`StoppedError`. Then :meth:`seen`.
    """

    def __init__(self, device: Device, rail: Rail, times: Times) -> None:
        self._device, self._rail, self._times = device, rail, times
        self._started = monotonic()
        self._seen = Seen(rail.device, rail.port)
        self._closers: list[Callable[[], None]] = []
        self._sent = [-1, -1, -1]
        self.step = ""

    def offer(self) -> Offer:
        """Make the queue pair, post its receives, and return how it is reached."""
        rail, device = self._rail, self._device
        self.step = "port"
        port = device.port(rail.port)
        infiniband = port.link_layer == ibv.LINK_LAYER_INFINIBAND
        if infiniband and port.state in (ibv.PORT_INIT, ibv.PORT_ARMED):
            raise StoppedError("NO_SM", detail=f"state {port.state}, LID {port.lid}")
        if port.state != ibv.PORT_ACTIVE or port.active_mtu not in ibv.MTU_BYTES:
            raise StoppedError("PORT_DOWN", detail=f"state {port.state}, MTU {port.active_mtu}")
        gid = device.gid(rail.port, rail.gid_index)
        self._seen = replace(self._seen, gid=gid, state_after=port.state)
        if infiniband:
            # Where a GRH is demanded, what has no LID need not be at fault.
            lid = None if port.flags & ibv.QPF_GRH_REQUIRED else port.lid
            self._seen = replace(self._seen, lid=lid, pkey=self._partition())
        elif not int(gid, 16):
            raise StoppedError("NO_GID", detail=f"index {rail.gid_index} is empty")
        if rail.gid not in ("", gid):
            held = f"index {rail.gid_index} holds {_address(gid)}, not {_address(rail.gid)}"
            raise StoppedError("GID_MOVED", detail=held)
        self._port_flags = port.flags
        self.step = "memory"
        self._large = 2 * ibv.MTU_BYTES[port.active_mtu] + SMALL_BYTES
        self._target = _pages(2 * (SMALL_BYTES + self._large))  # from here on the pages are open to the peer
        self._memory = Memory(device, self._target + _pages(self._large))
        self._closers.append(self._memory.close)
        self._own = self._memory.register(0, self._target, ibv.ACCESS_LOCAL_WRITE)
        access = ibv.ACCESS_LOCAL_WRITE | ibv.ACCESS_REMOTE_WRITE
        opened = self._memory.register(self._target, self._large, access)
        self.step = "queue pair"
        self._pair = QueuePair(device)
        self._closers.append(self._pair.close)
        self._to_init(port.pkey_tbl_len)
        for number, (place, size) in enumerate(zip(self._into, (SMALL_BYTES, self._large), strict=False)):
            self._pair.receive(_RECEIVES + number, self._segment(place, size))
        return Offer(
            qp_number=self._pair.number,
            psn=int.from_bytes(os.urandom(3), "big"),
            gid=gid,
            mtu=port.active_mtu,
            rkey=opened.rkey,
            address=self._memory.address + self._target,
            large_bytes=self._large,
            nonce=os.urandom(16).hex(),
            lid=port.lid if infiniband else None,
        )

    def _partition(self) -> int | None:
        with suppress(VerbsError):  # it only helps to name a fault
            return self._device.partition(self._rail.port, self._rail.pkey_index)
        return None

    def _to_init(self, slots: int) -> None:
        rail = self._rail
        try:
            self._pair.to_init(rail.port, rail.pkey_index)
        except VerbsError as error:
            if error.number == errno.EINVAL and rail.pkey_index >= slots:
                detail = f"P_Key index {rail.pkey_index}, the port has {slots}"
                raise StoppedError("PKEY_REFUSED", error.number, detail) from error
            raise

    @property
    def _into(self) -> tuple[int, int, int]:
        """Where the peer's three messages arrive: behind the two that are sent, and on pages of its own."""
        return SMALL_BYTES + self._large, 2 * SMALL_BYTES + self._large, self._target

    def _segment(self, place: int, size: int) -> ibv.Segment:
        return ibv.Segment(self._memory.address + place, size, self._own.lkey)

    def connect(self, own: Offer, peer: Offer) -> None:
        """Bring the queue pair to RTR and RTS.

        The kernel waits one second for a neighbour, and ARP does before it asks again: one lost packet is enough
        to fail, so further tries follow, as in NCCL from 2.24 on (``IB_MQP_RETRY_CNT``).
        """
        self.step = "rtr"
        if (own.lid is None) != (peer.lid is None):
            raise StoppedError(
                "PEER_OTHER_LINK", detail="a LID of one end only: an older launcher, or no InfiniBand"
            )
        try:
            route = address_of_peer(self._rail, own, peer, self._port_flags)
        except UndecidedError:
            detail = "how NCCL addresses another subnet depends on its release, which is not known"
            raise StoppedError("UNDECIDED", detail=detail) from None
        mtu = min(own.mtu, peer.mtu)
        self._seen = replace(self._seen, mtu_bytes=ibv.MTU_BYTES[mtu])
        for tries_left in reversed(range(self._times.connects)):
            try:
                self._pair.to_rtr(route, peer.qp_number, peer.psn, mtu)
                break
            except VerbsError as error:
                lost = error.number == errno.ETIMEDOUT
                last = lost and not tries_left
                without = _route_errno(own.gid, peer.gid) if last and own.lid is None else 0
                if without:
                    raise StoppedError(
                        "NO_ROUTE", without, "IP has none; RDMA has waited in vain for a neighbour"
                    ) from error
                if not lost or not tries_left:
                    if peer.lid is None:
                        raise VerbsError("rtr", error.number) from error
                    raise VerbsError("rtr by LID", error.number, f"LID {peer.lid}") from error
        self.step = "rts"
        self._pair.to_rts(own.psn, self._times.timeout, self._times.retries)

    def send(self, own: Offer, peer: Offer) -> None:
        """Post the three messages."""
        self.step = "send"
        sizes = self._sizes(own, peer)
        self._seen = replace(self._seen, want=sizes)
        self._deadline = monotonic() + self._times.sends_s
        for number, size in enumerate(sizes):
            place = 0 if number == 0 else SMALL_BYTES  # the WRITE carries the large message elsewhere
            self._memory.pages[place : place + size] = _pattern(own.nonce, min(number, 1), size)
            where = (peer.address, peer.rkey) if number == 2 else (0, 0)
            self._pair.send(number, self._segment(place, size), to=where[0], rkey=where[1])

    @staticmethod
    def _sizes(own: Offer, peer: Offer) -> tuple[int, int, int]:
        large = min(own.large_bytes, peer.large_bytes)
        return SMALL_BYTES, large, large

    def collect(self) -> bool:
        """Return whether nothing more is awaited: all completions are there, or their time is over."""
        late = monotonic() >= self._deadline  # read first: after a pause that lasted too long once more
        for one in self._pair.completions():
            if 0 <= one.wr_id < len(self._sent):
                self._sent[one.wr_id] = one.status
                self._seen = replace(self._seen, vendor=self._seen.vendor or one.vendor_err)
        return late or -1 not in self._sent

    def look(self, own: Offer, peer: Offer) -> None:
        """Look what has arrived, and whether the port and its GID are still what they were."""
        got = [0, 0, 0]
        for number, size in enumerate(self._sizes(own, peer)):
            place = self._into[number]
            wanted = _pattern(peer.nonce, min(number, 1), size)
            got[number] = _alike(self._memory.pages[place : place + size], wanted)
        self._seen = replace(self._seen, got=(got[0], got[1], got[2]))
        state = self._device.port(self._rail.port).state
        gid = self._device.gid(self._rail.port, self._rail.gid_index)
        self._seen = replace(self._seen, state_after=state, gid_after=gid)

    def seen(self, failure: VerbsError | StoppedError | None = None) -> Seen:
        """Return what this end saw, and what stopped it."""
        first, second, third = self._sent
        found = replace(self._seen, sent=(first, second, third), step=self.step, seconds=self._elapsed())
        return stopped(found, failure) if failure is not None else found

    def _elapsed(self) -> float:
        return round(monotonic() - self._started, 4)

    def close(self) -> None:
        """Destroy what was made, last first."""
        while self._closers:
            with suppress(VerbsError):  # nothing hangs on it: the process ends
                self._closers.pop()()


def stopped(seen: Seen, failure: VerbsError | StoppedError) -> Seen:
    """Return ``seen`` with the cause that ``failure`` stands for."""
    if isinstance(failure, StoppedError):
        return replace(seen, cause=failure.cause, number=failure.number, detail=failure.detail[:400])
    cause = _CAUSES.get((failure.call, failure.number)) or _OTHERWISE.get(failure.call, "VERBS_FAILED")
    return replace(seen, cause=cause, number=min(failure.number, 4095), detail=str(failure)[:400])


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _pattern(nonce: str, number: int, size: int) -> bytes:
    """Return what is nowhere the same, and in no other exchange: hashlib alone would be a fifth of the memory."""
    place = f"{nonce}{number}:%d,"
    return "".join(place % one for one in range(size // len(nonce) + 1)).encode()[:size]


def _alike(found: bytes, wanted: bytes) -> int:
    if found == wanted:
        return len(wanted)
    return next(place for place, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)


def _family(gid: str) -> socket.AddressFamily:
    return socket.AF_INET if gid.startswith(_IPV4) else socket.AF_INET6


def _address(gid: str) -> str:
    """Return the address that 32 digits of a GID are."""
    return socket.inet_ntop(_family(gid), bytes.fromhex(gid.removeprefix(_IPV4)))


def _route_errno(source: str, target: str) -> int:
    """Return the errno of IP's own choice of a route, 0 where there is one.

    RDMA's look-up is bound to the GID's interface, where IPv4 takes a target without a route for on-link
    (``ip_route_output_key_hash_rcu``): it waits for a neighbour that cannot answer, and says ETIMEDOUT.
    """
    try:
        with socket.socket(_family(source), socket.SOCK_DGRAM) as asking:
            asking.bind((_address(source), 0))
            asking.connect((_address(target), _ROCE_PORT))
    except OSError as error:
        return error.errno if error.errno in _NO_ROUTE else 0
    return 0

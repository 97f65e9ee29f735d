"""libibverbs in this process: loaded, the versions of its symbols, its list of devices.

Only a child process does this (:mod:`sglang_roce_entry.verbs.supervise`): a list of devices loads every provider
of the image, and one that crashes takes the process with it. Every launch pays for it: ``typing`` and what that
imports cost more than all of the rest, and are left out here.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_void_p

#: NCCL tries these two names in this order (``buildIbvSymbols``, src/misc/ibvsymbols.cc).
_NAMES = ("libibverbs.so", "libibverbs.so.1")
#: Each call has two versions, 1.0 and 1.1, with different structures. NCCL asks for this one as well.
_VERSION = b"IBVERBS_1.1"
#: The names of devices are shorter (IBV_SYSFS_NAME_MAX, infiniband/verbs.h).
_NAME_BYTES = 64
_GET_DEVICE_LIST = CFUNCTYPE(POINTER(c_void_p), POINTER(c_int), use_errno=True)
_GET_DEVICE_NAME = CFUNCTYPE(c_char_p, c_void_p)


class NotLoadedError(Exception):
    """The dynamic loader cannot load libibverbs; its message."""


class VerbsError(Exception):
    """A call that failed: which one, and the errno that it left (0: none)."""

    def __init__(self, call: str, number: int, detail: str = "") -> None:
        name = errno.errorcode.get(number, str(number) if number else "no errno")
        super().__init__(f"{call}: {name}{f' ({detail})' if detail else ''}")
        self.call, self.number, self.detail = call, number, detail


class Libibverbs:
    """The library. Raises :class:`NotLoadedError`."""

    def __init__(self) -> None:
        self._library = _loaded()

    def address(self, name: str) -> int:
        """Return where ``name`` of the known version is. Raises :class:`VerbsError`.

        Without a version the loader gives the default one, which a later release may change.
        """
        try:
            find = ctypes.CDLL(None).dlvsym  # glibc's own; below 2.34 in libdl, which Python is linked to
        except AttributeError:
            raise VerbsError("dlvsym", errno.ENOSYS, "the C library has no versions of symbols") from None
        find.restype, find.argtypes = c_void_p, (c_void_p, c_char_p, c_char_p)
        found = find(self._library._handle, name.encode(), _VERSION)  # noqa: SLF001 - ctypes has no other way
        if not found:
            raise VerbsError("dlvsym", 0, f"libibverbs has no {name} of version {_VERSION.decode()}")
        return int(found)

    def devices(self) -> dict[str, int]:
        """Return the devices that libibverbs lists: names, and where their ``struct ibv_device`` are.

        A device without a node in ``/dev/infiniband`` is not in it, nor one that no provider takes. Raises
        :class:`VerbsError`; ENOSYS: the kernel shows no verbs at all.
        """
        get_list, name_of = self.address("ibv_get_device_list"), self.address("ibv_get_device_name")
        count = c_int()
        ctypes.set_errno(0)
        listed = _GET_DEVICE_LIST(get_list)(ctypes.byref(count))
        if not listed:
            raise VerbsError("ibv_get_device_list", ctypes.get_errno())
        devices = {}
        for position in range(count.value):
            name = _GET_DEVICE_NAME(name_of)(listed[position]) or b""
            if not 0 < len(name) < _NAME_BYTES or not name.decode("latin-1").isprintable():
                raise VerbsError("ibv_get_device_name", 0, "no name of a device")
            devices[name.decode("latin-1")] = listed[position] or 0
        return devices


def _loaded() -> ctypes.CDLL:
    problem = ""
    for name in _NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problem = str(error)
    raise NotLoadedError(problem)

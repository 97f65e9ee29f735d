"""A released NCCL sends messages between two HCAs of this node, over the real verbs stack.

    nccl_transfer.py '{"library": ..., "net_table_offset": ..., "plugin_abi": ...}' [stay]

Runs in the guest, in the environment that is under test. Prints as JSON NCCL's device table and, for
each direction that was tried, NCCL's result and whether the receiver holds what was sent; the second
direction is not tried if the first fails. NCCL's own log goes where NCCL_DEBUG_FILE says. With `stay` it then leaves
/out/nccl-stays and waits to be killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.nccl.worker import HANDLE_BYTES, Net

MESSAGE = bytes(range(256)) * 64
# A wrong GID either fails at once or is retried by the transport for some seconds.
DEADLINE_S = 20.0
HOST_MEMORY = 1  # NCCL_PTR_HOST
TAG = 7


class Transfer(Net):
    """NCCL's own network, with messages from one of its devices to another (NCCL 2.26 and later)."""

    REGISTER, SEND, RECEIVE, TEST = 7, 10, 11, 13

    def __init__(self, library: ctypes.CDLL, table_offset: int, abi: int) -> None:
        super().__init__(library, table_offset, abi)
        if abi < 10:
            raise ValueError("isend and irecv have other arguments before the plugin table v10")
        self._deadline = time.monotonic() + DEADLINE_S

    def message(self, sending: int, receiving: int) -> tuple[int, bool]:
        """Connect and send; return NCCL's result code, -1 if out of time, and whether it arrived."""
        handle = (ctypes.c_char * HANDLE_BYTES)()
        listener, sender, receiver, offload = (ctypes.c_void_p() for _ in range(4))
        rc = self._call(self.LISTEN, *self._device(receiving), handle, ctypes.byref(listener))
        target = self._device(sending)
        if self._abi == 10:
            target = (sending, ctypes.byref(self._config))
        while rc == 0 and not (sender.value and receiver.value):
            if not sender.value:
                rc = self._call(self.CONNECT, *target, handle, ctypes.byref(sender), ctypes.byref(offload))
            if rc == 0 and not receiver.value:
                accepted = ctypes.byref(receiver)
                rc = self._call(self.ACCEPT, listener, accepted, ctypes.byref(offload))
            rc = rc or self._late()
        return (rc, False) if rc else self._transfer(sender, receiver)

    def _transfer(self, sender: ctypes.c_void_p, receiver: ctypes.c_void_p) -> tuple[int, bool]:
        outgoing = ctypes.create_string_buffer(MESSAGE, len(MESSAGE))
        incoming = ctypes.create_string_buffer(len(MESSAGE))
        size = ctypes.c_size_t(len(MESSAGE))
        memory = {}
        for communicator, buffer in ((sender, outgoing), (receiver, incoming)):
            registered = memory[communicator.value] = ctypes.c_void_p()
            rc = self._call(self.REGISTER, communicator, buffer, size, HOST_MEMORY, ctypes.byref(registered))
            if rc:
                return rc, False
        sent, received = ctypes.c_void_p(), ctypes.c_void_p()
        one_buffer = (ctypes.c_void_p * 1)(ctypes.addressof(incoming))
        one_memory = (ctypes.c_void_p * 1)(memory[receiver.value])
        one_size, one_tag = (ctypes.c_size_t * 1)(len(MESSAGE)), (ctypes.c_int * 1)(TAG)
        rc = self._call(
            self.RECEIVE, receiver, 1, one_buffer, one_size, one_tag, one_memory, None, ctypes.byref(received)
        )
        while rc == 0 and not sent.value:  # NULL: the receiver is not ready yet
            rc = self._call(self.SEND, sender, outgoing, size, TAG, memory[sender.value], None, ctypes.byref(sent))
            rc = rc or self._late()
        rc = rc or self._complete(sent) or self._complete(received)
        return rc, incoming.raw == MESSAGE

    def _complete(self, request: ctypes.c_void_p) -> int:
        done, sizes = ctypes.c_int(0), (ctypes.c_int * 8)()
        while True:
            rc = self._call(self.TEST, request, ctypes.byref(done), sizes)
            if rc or done.value:
                return rc
            if self._late():
                return -1

    def _late(self) -> int:
        time.sleep(0.001)
        return -1 if time.monotonic() > self._deadline else 0


def main(release: dict[str, Any], *, stays: bool) -> None:
    library = ctypes.CDLL(release["library"], mode=os.RTLD_NOW | os.RTLD_LOCAL)
    net = Transfer(library, release["net_table_offset"], release["plugin_abi"])
    rc = net.init()
    devices = [net.properties(device) for device in range(net.count() if rc == 0 else 0)]
    messages = []
    if len(devices) == 2:
        messages.append(net.message(0, 1))
        if messages[0] == (0, True):
            messages.append(net.message(1, 0))
    print(json.dumps({"rc": rc, "devices": devices, "messages": messages}), flush=True)
    if stays:
        Path("/out/nccl-stays").touch()
        signal.pause()
    # NCCL's threads wait for events that never come: leave without asking them.
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), stays=sys.argv[2:] == ["stay"])

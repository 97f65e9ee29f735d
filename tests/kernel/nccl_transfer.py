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
OUT_OF_TIME = -1


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
        handle, sender, receiver = (ctypes.c_char * HANDLE_BYTES)(), ctypes.c_void_p(), ctypes.c_void_p()
        rc, listener = self.listen(receiving, handle)
        while rc == 0 and not (sender.value and receiver.value):
            rc = self.dial(sending, handle, sender) or self.accept(listener, receiver) or self.late()
        return (rc, False) if rc else self._transfer(sender, receiver)

    def _transfer(self, sender: ctypes.c_void_p, receiver: ctypes.c_void_p) -> tuple[int, bool]:
        outgoing, incoming = Buffer(MESSAGE), Buffer(bytes(len(MESSAGE)))
        rc = self.register(sender, outgoing) or self.register(receiver, incoming)
        rc = rc or self.receive(receiver, incoming)
        while rc == 0 and not outgoing.request.value:
            rc = self.send(sender, outgoing) or self.late()
        for buffer in (outgoing, incoming):
            while rc == 0 and not buffer.done:
                rc = self.test(buffer) or self.late()
        return rc, incoming.holds == MESSAGE

    def listen(self, device: int, handle: Any) -> tuple[int, ctypes.c_void_p]:
        """Fill the handle by which a peer finds the listener."""
        listener = ctypes.c_void_p()
        return self._call(self.LISTEN, *self._device(device), handle, ctypes.byref(listener)), listener

    def dial(self, device: int, handle: Any, sender: ctypes.c_void_p) -> int:
        """Go on with the connection to a listener; ``sender`` is set when it is there."""
        if sender.value:
            return 0
        target = self._device(device)
        if self._abi == 10:
            target = (device, ctypes.byref(self._config))
        offload = ctypes.c_void_p()  # none is asked for
        return self._call(self.CONNECT, *target, handle, ctypes.byref(sender), ctypes.byref(offload))

    def accept(self, listener: ctypes.c_void_p, receiver: ctypes.c_void_p) -> int:
        """Go on with the connection of a peer; ``receiver`` is set when it is there."""
        if receiver.value:
            return 0
        offload = ctypes.c_void_p()
        return self._call(self.ACCEPT, listener, ctypes.byref(receiver), ctypes.byref(offload))

    def register(self, communicator: ctypes.c_void_p, buffer: Buffer) -> int:
        size, memory = ctypes.c_size_t(buffer.size), ctypes.byref(buffer.memory)
        return self._call(self.REGISTER, communicator, buffer.pages, size, HOST_MEMORY, memory)

    def send(self, sender: ctypes.c_void_p, buffer: Buffer) -> int:
        """Try to; the request stays NULL while the receiver is not ready yet."""
        size, request = ctypes.c_size_t(buffer.size), ctypes.byref(buffer.request)
        return self._call(self.SEND, sender, buffer.pages, size, TAG, buffer.memory, None, request)

    def receive(self, receiver: ctypes.c_void_p, buffer: Buffer) -> int:
        buffers = (ctypes.c_void_p * 1)(ctypes.addressof(buffer.pages))
        sizes, tags = (ctypes.c_size_t * 1)(buffer.size), (ctypes.c_int * 1)(TAG)
        memory, request = (ctypes.c_void_p * 1)(buffer.memory.value), ctypes.byref(buffer.request)
        return self._call(self.RECEIVE, receiver, 1, buffers, sizes, tags, memory, None, request)

    def test(self, buffer: Buffer) -> int:
        """Look whether the request of a buffer is done."""
        done, sizes = ctypes.c_int(0), (ctypes.c_int * 8)()
        rc = 0 if buffer.done else self._call(self.TEST, buffer.request, ctypes.byref(done), sizes)
        buffer.done = buffer.done or bool(done.value)
        return rc

    def late(self) -> int:
        time.sleep(0.001)
        return OUT_OF_TIME if time.monotonic() > self._deadline else 0


class Buffer:
    """Memory of a message, and the request that fills or sends it."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self.pages = ctypes.create_string_buffer(content, self.size)
        self.memory, self.request = ctypes.c_void_p(), ctypes.c_void_p()
        self.done = False

    @property
    def holds(self) -> bytes:
        return self.pages.raw


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

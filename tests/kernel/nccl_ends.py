"""A released NCCL sends messages both ways over pairs of rails, each end a process of its own. A program in the guest.

    nccl_ends.py '{"library": ..., "net_table_offset": ..., "plugin_abi": ...}'

reads from stdin a JSON list of pairs: of each, the environments of both ends, in which NCCL finds one device. Prints
what each end came to: NCCL's result and the step that gave it (-1: out of time or without its peer), and whether what
the peer sent has arrived. All pairs are tried at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys
from typing import Any

from tests.kernel.nccl_transfer import MESSAGE, OUT_OF_TIME, Buffer, Transfer
from tests.nccl.worker import HANDLE_BYTES

Seen = dict[str, Any]


class End:
    """One end of a pair: it sends to its peer and receives from it, at once."""

    def __init__(self, net: Transfer, peer: socket.socket) -> None:
        self._net, self._peer = net, peer
        self._sender, self._receiver = ctypes.c_void_p(), ctypes.c_void_p()
        self._outgoing, self._incoming = Buffer(MESSAGE), Buffer(bytes(len(MESSAGE)))

    def run(self) -> Seen:
        """Return what came of it. The end stays as it is: its peer may still need what it acknowledges."""
        rc = 0
        for step in (self._device, self._connect, self._exchange):
            rc = step()
            if rc:
                return {"rc": rc, "step": step.__name__[1:], "arrived": False}
        return {"rc": rc, "step": "", "arrived": self._incoming.holds == MESSAGE}

    def _device(self) -> int:
        return self._net.init() or (0 if self._net.count() == 1 else OUT_OF_TIME)

    def _connect(self) -> int:
        own = (ctypes.c_char * HANDLE_BYTES)()
        rc, listener = self._net.listen(0, own)
        if rc:
            return rc
        self._peer.sendall(own.raw)
        theirs = self._peer.recv(HANDLE_BYTES, socket.MSG_WAITALL)
        if len(theirs) < HANDLE_BYTES:
            return OUT_OF_TIME
        handle = (ctypes.c_char * HANDLE_BYTES).from_buffer_copy(theirs)
        while rc == 0 and not (self._sender.value and self._receiver.value):
            rc = (
                self._net.dial(0, handle, self._sender)
                or self._net.accept(listener, self._receiver)
                or self._alone()
            )
        return rc

    def _exchange(self) -> int:
        net = self._net
        rc = net.register(self._sender, self._outgoing) or net.register(self._receiver, self._incoming)
        rc = rc or net.receive(self._receiver, self._incoming)
        while rc == 0 and not (self._outgoing.done and self._incoming.done):
            if not self._outgoing.request.value:
                rc = net.send(self._sender, self._outgoing)
            else:
                rc = net.test(self._outgoing)
            rc = rc or net.test(self._incoming) or self._alone()
        return rc

    def _alone(self) -> int:
        """Return whether there is still time and a peer that goes on."""
        gone = select.select([self._peer], [], [], 0)[0] and not self._peer.recv(1, socket.MSG_PEEK)
        return OUT_OF_TIME if gone else self._net.late()


def _begin(
    release: Seen, library: ctypes.CDLL, environment: dict[str, str], peer: socket.socket, other: socket.socket
) -> tuple[int, int]:
    """Fork an end; return its process and what becomes readable when it has a result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    other.close()
    os.environ.update(environment)
    seen = End(Transfer(library, release["net_table_offset"], release["plugin_abi"]), peer).run()
    with os.fdopen(writing, "w") as result:
        json.dump(seen, result)
    if seen["rc"] == 0:
        peer.sendall(b"done")
        peer.recv(4, socket.MSG_WAITALL)
    # NCCL's threads wait for events that never come: leave without asking them.
    os._exit(0)


def main(release: Seen, pairs: list[list[dict[str, str]]]) -> None:
    """Try all pairs and print what their ends saw."""
    library = ctypes.CDLL(release["library"], mode=os.RTLD_NOW | os.RTLD_LOCAL)
    begun = []
    for environments in pairs:
        near, far = socket.socketpair()
        both = ((environments[0], near, far), (environments[1], far, near))
        begun.append([_begin(release, library, *one) for one in both])
        near.close()
        far.close()
    seen = []
    for ends in begun:
        seen.append(
            [json.loads(os.fdopen(reading).read() or '{"rc": null, "step": "died"}') for _, reading in ends]
        )
    for child in (child for ends in begun for child, _ in ends):
        os.waitpid(child, 0)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.load(sys.stdin))

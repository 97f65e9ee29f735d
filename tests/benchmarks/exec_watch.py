"""When a process execs, seen from outside: it holds the only writing end of a pipe, closed on exec.

The launcher lets no descriptor through its `execve` (a tested promise), so the reading end hangs up in
that very call. An exit hangs up too; whoever asks must know that the process became what it should.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self


class ExecWatch:
    """The moments of exec (`time.monotonic()`) of any number of processes, by a key of the caller."""

    def __init__(self, on_exec: Callable[[int], None] = lambda _key: None) -> None:
        self._on_exec = on_exec
        self._poll = select.epoll()
        self._keys: dict[int, int] = {}
        self._changed = threading.Condition()
        self._end = threading.Event()
        self.at_s: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch, name="exec watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        for descriptor in self._keys:
            os.close(descriptor)
        self._poll.close()

    @contextlib.contextmanager
    def descriptor(self, key: int) -> Iterator[int]:
        """Give the descriptor that the process to be started must inherit."""
        reading, writing = os.pipe()
        self._keys[reading] = key
        try:
            yield writing
        finally:
            os.close(writing)
            self._poll.register(reading, select.EPOLLHUP)

    def wait(self, count: int, timeout_s: float) -> None:
        """Wait until so many have hung up. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.at_s) >= count, timeout_s):
                raise TimeoutError(f"{len(self.at_s)} of {count} processes became SGLang in {timeout_s:.0f} s")

    def _watch(self) -> None:
        while not self._end.is_set():
            for descriptor, _event in self._poll.poll(0.1):
                now = time.monotonic()
                self._poll.unregister(descriptor)
                with self._changed:
                    self.at_s[self._keys[descriptor]] = now
                    self._changed.notify_all()
                self._on_exec(self._keys[descriptor])

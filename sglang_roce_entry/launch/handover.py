"""The handover to SGLang: signals, limits, descriptors, ``execvpe``; and the end of a launch that failed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from time import sleep
from types import FrameType
from typing import NoReturn

from sglang_roce_entry.plan.bare_word import not_executed, shown_program
from sglang_roce_entry.problems import CANNOT_EXECUTE, EntryError, Interrupted

TERMINATION_LOG = "/dev/termination-log"
_TERMINATION_LOG_BYTES = 4096  # the kubelet reads no more of one container


#: An exception that a handler raises is dropped if it happens to run inside a destructor or a callback
#: of the C library's; so it is raised again until it gets through.
_AGAIN_S = 0.2


class SignalGuard:
    """Makes SIGTERM and SIGINT end any wait, also as PID 1, which otherwise ignores them."""

    def __init__(self) -> None:
        self._received: int | None = None

    def install(self) -> None:
        """Raise ``Interrupted`` in the main thread from now on."""
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)
        # A blocked signal stays blocked across exec: the parent process may have blocked it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGALRM})

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        signal.signal(signal.SIGALRM, self._again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        raise Interrupted(number)

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        self.check()

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal came and its exception was lost."""
        if self._received is not None:
            raise Interrupted(self._received)

    def stand_down(self) -> None:
        """Stop raising: the interruption has got through, and a second signal changes nothing."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._received = None
        signal.setitimer(signal.ITIMER_REAL, 0)


def raise_memlock() -> None:
    """Raise the soft limit on locked memory to the hard one; a child inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    except (OSError, ValueError):
        return  # forbidden by a seccomp profile: the plan has already checked the limit


def hand_over(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Exec ``argv``. Raises :class:`~sglang_roce_entry.problems.EntryError` (126, 127) if that fails.

    Dispositions are set back to their defaults (CPython leaves SIGPIPE and SIGXFSZ ignored, and what
    is ignored stays so across exec), the mask is emptied, and no descriptor but 0, 1 and 2 survives.
    """
    _flush()
    _close_on_exec()
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    _default_signals()
    try:
        os.execvpe(argv[0], list(argv), dict(environ))  # noqa: S606 - the purpose of this program
    except (OSError, ValueError) as failure:
        for number, handler in handlers:
            signal.signal(number, handler)
        raise _not_executed(argv[0], failure, environ) from failure


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed when the interpreter started
                stream.flush()
        except (OSError, ValueError):
            continue  # an unread stream must not keep SGLang from starting


def _not_executed(name: str, failure: OSError | ValueError, environ: Mapping[str, str]) -> EntryError:
    if isinstance(failure, ValueError):  # a NUL byte in an argument or a variable
        shown = shown_program(name)
        return EntryError("EXEC", f"cannot execute {shown!r}: {failure}", "correct the arguments", CANNOT_EXECUTE)
    # A directory of PATH that this user cannot enter is EACCES, wherever the rest of the search ended.
    in_path = os.path.dirname(name) or any(
        os.path.exists(os.path.join(folder, name)) for folder in os.get_exec_path(environ)
    )
    hidden = failure.errno == errno.EACCES and not in_path
    number = errno.ENOENT if hidden else failure.errno or 0
    return not_executed(name, number, failure.strerror or str(failure))


def _close_on_exec() -> None:
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return
    for descriptor in descriptors:
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue  # the one of the listing itself


def _default_signals() -> None:
    for number in signal.valid_signals():
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # reserved by the C library
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def write_termination_log(text: str, path: str = TERMINATION_LOG) -> None:
    """Write ``text``, its first 4,096 bytes, where the kubelet put the file; create none."""
    data = text.encode("utf-8", "backslashreplace")[:_TERMINATION_LOG_BYTES]
    data = data.decode("utf-8", "ignore").encode()  # the cut may have split a character
    try:
        # A FIFO that nobody reads would hold up the end for ever.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # not in Kubernetes, or not writable
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, data)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def linger(seconds: float, say: Callable[[str], None], pause: Callable[[float], None] | None = None) -> None:
    """Pause before a fatal exit, so that the log can be read before the pod is deleted with it.

    ``pause`` has something to do in that time, and does it however short that is.
    """
    if seconds > 0:
        say(f"exiting in {seconds:g} s, so that this log can be read (--linger)")
    if pause is not None:
        pause(seconds)
    elif seconds > 0:
        sleep(seconds)

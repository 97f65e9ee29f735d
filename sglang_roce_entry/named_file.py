"""Files whose names a user writes: read if they are files, not larger than such a file can be; and written."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedWriter

#: A ConfigMap holds no more.
MOST_BYTES = 1 << 20


class NotAFileError(OSError):
    """What a name leads to is a FIFO, a device or a socket: reading it may never end, for NCCL and SGLang too."""


def read_bytes(path: str, most: int, *, cut: bool = False) -> bytes:
    """Return the first ``most`` bytes of a file. Raises ``OSError``, also for a larger file unless ``cut``."""
    # Without O_NONBLOCK the open of a FIFO that nobody writes never returns.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise NotAFileError(errno.EINVAL, "it is no regular file", path)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most and not cut:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB", path)
    return data[:most]


def read_named(path: str) -> str:
    """Return the text of a file that a user has named. Raises ``OSError``, ``UnicodeDecodeError``."""
    return read_bytes(path, MOST_BYTES).decode("utf-8")


def read_in(folder: str | None, path: str) -> str:
    """Return the text of a file that a process in ``folder`` (``None``: not known) names. Raises ``OSError``."""
    if folder is None and not os.path.isabs(path):
        raise OSError(errno.ENOENT, "it is relative to the server's working directory, which is not known here")
    return read_named(os.path.abspath(os.path.join(folder or "/", path)))


def open_to_write(path: str, mode: int) -> BufferedWriter:
    """Return the file that a user has named, content kept for now, a new one in ``mode``. Raises ``OSError``."""
    # A FIFO that nobody reads is an error, not a wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, mode)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def write_over(file: BufferedWriter, data: bytes) -> None:
    """Write ``data`` in the place of what was in ``file``, and close it. Raises ``OSError``."""
    with file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.ftruncate(file.fileno(), 0)
        file.write(data)

"""The one reader of ``/sys``, ``/proc``, ``/dev`` and ``/etc``, with a root that can be replaced.

Paths are always written as on the node (``/sys/class/infiniband``). Every failure is an ``OSError``
with the kernel's errno: a missing file, an empty slot (EINVAL) and a forbidden file stay three
different things.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Protocol

from sglang_roce_entry.named_file import read_bytes
from sglang_roce_entry.natural import whole_number

#: A sysfs attribute is at most one page (Documentation/filesystems/sysfs.rst).
ATTRIBUTE_BYTES = 4096
#: Larger than any file that is read whole here (/proc/net/route of a node with thousands of routes).
_TEXT_BYTES = 4 << 20

#: The file or folder does not exist, as against: it exists, but has no value or may not be read.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


class Tree(Protocol):
    """A file tree as a node shows it."""

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, from a single read. Raises ``OSError``."""

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory, in no order. Raises ``OSError``."""

    def real(self, path: str) -> str | None:
        """Return the path with every symbolic link resolved, ``None`` if it does not exist."""

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of the directory ``path`` with what reading it gave. Raises ``OSError``."""


class DiskTree:
    """The files below ``root``: the running system with ``/``, a fake tree in a test."""

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else os.path.realpath(root)

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, from a single read. Raises ``OSError``."""
        return _read_once(self._root + path).decode("utf-8", "surrogateescape").strip()

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""
        return read_bytes(self._root + path, _TEXT_BYTES, cut=True).decode("utf-8", "surrogateescape")

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory, in no order. Raises ``OSError``."""
        return os.listdir(self._root + path)

    def real(self, path: str) -> str | None:
        """Return the path with every symbolic link resolved, ``None`` if it does not exist."""
        try:
            real = os.path.realpath(self._root + path, strict=True)
        except OSError:
            return None
        return real[len(self._root) :] if real.startswith(self._root) else None

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of the directory ``path`` with what reading it gave. Raises ``OSError``."""
        # A table has thousands of slots. Names relative to the open directory spare the kernel the
        # walk over a dozen links and folders for each, which is half of the cost.
        found: list[tuple[str, bytes | OSError]] = []
        directory = os.open(self._root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            for name in os.listdir(directory):
                try:
                    found.append((name, _read_once(name, directory)))
                except OSError as error:
                    found.append((name, error.with_traceback(None)))
        finally:
            os.close(directory)
        return found


def _read_once(path: str, directory: int | None = None) -> bytes:
    # os.open and os.read instead of open(): a table has thousands of slots, and this halves the cost.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(descriptor, ATTRIBUTE_BYTES)
    finally:
        os.close(descriptor)


def attribute_or_none(tree: Tree, path: str) -> str | None:
    """Return an attribute, or ``None`` where it cannot be read (absent, EINVAL, forbidden)."""
    try:
        return tree.attribute(path)
    except OSError:
        return None


def names_or_empty(tree: Tree, path: str) -> list[str]:
    """Return the entries of a directory, none where it is absent or may not be listed."""
    try:
        return tree.names(path)
    except OSError:
        return []


def lines_or_empty(tree: Tree, path: str) -> list[str]:
    """Return the lines of a file, none where it is absent or may not be read."""
    try:
        return tree.text(path).splitlines()
    except OSError:
        return []


def errno_name(error: OSError) -> str:
    """Return ``EACCES`` and the like; ``EIO`` for an error without a known number."""
    return errno.errorcode.get(error.errno or 0, "EIO")


def numbered(prefix: str, paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` that are ``prefix`` and a decimal number, by number."""
    found = (whole_number(path[len(prefix) :]) for path in paths if path.startswith(prefix))
    return [f"{prefix}{number}" for number in sorted(number for number in found if number is not None)]

"""The one reader of ``/sys``, ``/proc``, ``/dev`` and ``/etc``, with a root that can be replaced.

Paths are always written as on the node (``/sys/class/infiniband``). Every failure is an ``OSError``
with the kernel's errno: a missing file, an empty slot (EINVAL) and a forbidden file stay three
different things.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from sglang_roce_entry.host.asked import Tree

#: A sysfs attribute is at most one page (Documentation/filesystems/sysfs.rst).
_ATTRIBUTE_BYTES = 4096
#: Larger than any file that is read whole here (/proc/net/route of a node with thousands of routes).
_TEXT_BYTES = 4 << 20

#: "There is no such thing", as against "it is there and says nothing" or "it may not be read".
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


class DiskTree:
    """The files below ``root``: the running system with ``/``, a fake tree in a test."""

    def __init__(self, root: str = "/") -> None:
        self._root = "" if root == "/" else os.path.realpath(root)

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, from a single read. Raises ``OSError``."""
        return _read_once(self._root + path).decode("utf-8", "surrogateescape").strip()

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""
        with open(self._root + path, "rb") as file:
            return file.read(_TEXT_BYTES).decode("utf-8", "surrogateescape")

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
        return os.read(descriptor, _ATTRIBUTE_BYTES)
    finally:
        os.close(descriptor)


class MemoryTree:
    """A recorded tree held in memory. Nothing is ever written to disk, so nothing can escape.

    ``files`` and ``links`` are keyed by absolute path; ``errors`` are reads that failed on the node,
    by the path as read or by its real path.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        links: Mapping[str, str],
        errors: Mapping[str, str],
        directories: frozenset[str] = frozenset(),
    ) -> None:
        self._files = dict(files)
        self._links = dict(links)
        self._errors = dict(errors)
        self._children: dict[str, set[str]] = {"/": set()}
        self._real_directories: dict[str, str] = {}
        for path in (*self._files, *self._links, *self._errors):
            self._add(path)
        for path in directories:
            self._add(path)
            self._children.setdefault(path, set())

    def _add(self, path: str) -> None:
        while path != "/":
            parent, _, name = path.rpartition("/")
            parent = parent or "/"
            children = self._children.setdefault(parent, set())
            if name in children:
                return
            children.add(name)
            path = parent

    def attribute(self, path: str) -> str:
        """Return one sysfs attribute, stripped, as much as the kernel would. Raises ``OSError``."""
        return self._read(path)[:_ATTRIBUTE_BYTES].decode("utf-8", "surrogateescape").strip()

    def text(self, path: str) -> str:
        """Return a whole file. Raises ``OSError``."""
        return self._read(path).decode("utf-8", "surrogateescape")

    def _read(self, path: str) -> bytes:
        recorded = self._errors.get(path)
        real = self._resolve(path)
        recorded = recorded or self._errors.get(real)
        if recorded is not None:
            raise _error(recorded, path)
        content = self._files.get(real)
        if content is None:
            raise _error("EISDIR" if real in self._children else "ENOENT", path)
        return content

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory, sorted. Raises ``OSError``."""
        recorded = self._errors.get(path)
        if recorded is not None:
            raise _error(recorded, path)
        real = self._resolve(path)
        if real in self._children:
            return sorted(self._children[real])
        raise _error("ENOTDIR" if real in self._files else "ENOENT", path)

    def real(self, path: str) -> str | None:
        """Return the path with every symbolic link resolved, ``None`` if it does not exist."""
        try:
            real = self._resolve(path)
        except OSError:
            return None
        return real if real in self._files or real in self._children else None

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of the directory ``path`` with what reading it gave. Raises ``OSError``."""
        found: list[tuple[str, bytes | OSError]] = []
        for name in self.names(path):
            try:
                found.append((name, self._read(f"{path}/{name}")[:_ATTRIBUTE_BYTES]))
            except OSError as error:
                found.append((name, error))
        return found

    def _resolve(self, path: str) -> str:
        directory, _, name = path.rpartition("/")
        real_directory = self._resolve_directory(directory or "/")
        real = os.path.join(real_directory, name)
        return self._resolve_directory(real) if real in self._links else real

    def _resolve_directory(self, path: str) -> str:
        known = self._real_directories.get(path)
        if known is not None:
            return known
        current, pending, followed = "/", [part for part in path.split("/") if part][::-1], 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                current = os.path.dirname(current)
                continue
            step = os.path.join(current, part)
            target = self._links.get(step)
            if target is None:
                current = step
                continue
            followed += 1
            if followed > 40:  # MAXSYMLINKS of the kernel
                raise _error("ELOOP", path)
            pending.extend([part for part in target.split("/") if part][::-1])
        self._real_directories[path] = current
        return current


def _error(name: str, path: str) -> OSError:
    code = getattr(errno, name, errno.EIO)
    return OSError(code, os.strerror(code), path)


class RecordingTree:
    """Passes every read to ``inner`` and remembers it, so that a snapshot holds just what was read."""

    def __init__(self, inner: Tree) -> None:
        self._inner = inner
        self.files: dict[str, str] = {}
        self.directories: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        self.resolved: dict[str, str] = {}

    def attribute(self, path: str) -> str:
        """Return one attribute and remember it."""
        return self._remember(path, self._inner.attribute)

    def text(self, path: str) -> str:
        """Return a whole file and remember it."""
        return self._remember(path, self._inner.text)

    def _remember(self, path: str, read: Callable[[str], str]) -> str:
        try:
            content = read(path)
        except OSError as error:
            self._remember_error(path, error)
            raise
        self.files[path] = content
        return content

    def _remember_error(self, path: str, error: OSError) -> None:
        if error.errno not in ABSENT:
            self.errors[path] = errno.errorcode.get(error.errno or 0, "EIO")

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory and remember that it is one."""
        try:
            entries = self._inner.names(path)
        except OSError as error:
            self._remember_error(path, error)
            raise
        self.directories[path] = entries
        return entries

    def real(self, path: str) -> str | None:
        """Return the real path and remember where the links lead."""
        real = self._inner.real(path)
        if real is not None:
            self.resolved[path] = real
        return real

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of this directory and remember what was read."""
        try:
            found = self._inner.slots(path)
        except OSError as error:
            self._remember_error(path, error)
            raise
        self.directories[path] = [name for name, _ in found]
        for name, content in found:
            full = f"{path}/{name}"
            if isinstance(content, OSError):
                self._remember_error(full, content)
            else:
                self.files[full] = content.decode("utf-8", "surrogateescape")
        return found


def attribute_or_none(tree: Tree, path: str) -> str | None:
    """Return an attribute, or ``None`` where the kernel does not say (absent, EINVAL, forbidden)."""
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

"""Reads the recorded nodes that ``--snapshot`` replays.

An archive is held in memory and never unpacked, so a hostile one has nowhere to write to; it is refused
nevertheless.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterable

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.snapshot.format import FACTS, PACKAGED, TOP, Document, SnapshotError, packaged_names
from sglang_roce_entry.host.snapshot.recorded import MemoryTree, RecordedAnswers
from sglang_roce_entry.named_file import read_bytes

#: 32 HCAs with 1,024 slots and all their attributes are 100,000 members in 100 MB of tar.
_MAX_UNPACKED_BYTES = 256 << 20
_MAX_MEMBERS = 250_000
_MAX_MEMBER_BYTES = 16 << 20
#: Sysfs paths have 300 characters at most. A tree of folders is kept name by name: some bytes of an
#: archive can name a million of them.
_MAX_PATH_CHARACTERS = 1024
_MAX_FOLDERS = 500_000


def load(name: str) -> tuple[Host, dict[str, str]]:
    """Return the recorded host of a folder, an archive or a packaged name, and its environment.

    Raises :class:`SnapshotError`.
    """
    path = name
    if not os.path.exists(path) and name in packaged_names():
        path = os.path.join(PACKAGED, f"{name}.tar.gz")
    try:
        if os.path.isdir(path):
            files, links, directories = _from_folder(name, path)
        else:
            files, links, directories = _from_archive(name, read_bytes(path, _MAX_UNPACKED_BYTES))
    except OSError as error:
        raise SnapshotError(name, error.strerror or str(error)) from error
    document = Document.parsed(name, files.pop(f"/{FACTS}", None))
    errors = document.strings("errno")
    for extra, text in document.strings("files").items():
        # normpath keeps two leading slashes, which POSIX allows to mean something else.
        files.setdefault(os.path.normpath("/" + extra.lstrip("/")), text.encode("utf-8", "surrogateescape"))
    named = (*document.mapping("open"), *document.mapping("interfaces"))
    _refuse_large_tree(name, {*files, *links, *errors, *directories, *named})
    host = Host(MemoryTree(files, links, errors, directories), RecordedAnswers(document))
    return host, document.strings("environ")


def _refuse_large_tree(name: str, paths: Iterable[str]) -> None:
    folders = set()
    for path in paths:
        if len(path) > _MAX_PATH_CHARACTERS:
            raise SnapshotError(name, f"has a path of {len(path)} characters: {path[:80]}...")
        folders.add(path.rpartition("/")[0])
    if sum(folder.count("/") for folder in folders) > _MAX_FOLDERS:
        raise SnapshotError(name, f"has more than {_MAX_FOLDERS} folders")


_Content = tuple[dict[str, bytes], dict[str, str], frozenset[str]]


def _from_archive(name: str, packed: bytes) -> _Content:
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    directories: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(_unpacked(name, packed)), mode="r:") as tar:
            for count, member in enumerate(tar):
                if count >= _MAX_MEMBERS:
                    raise SnapshotError(name, f"has more than {_MAX_MEMBERS} members")
                path = _inside(name, member.name)
                if path is None:
                    continue
                if member.isdir():
                    directories.add(path)
                elif member.issym():
                    links[path] = _link_target(name, path, member.linkname)
                elif member.issparse() or member.size < 0:
                    # Its size is only claimed: a kilobyte of archive could unpack to gigabytes.
                    raise SnapshotError(name, f"{member.name} is a sparse file or has no size")
                elif member.isreg():
                    if member.size > _MAX_MEMBER_BYTES:
                        raise SnapshotError(name, f"{member.name} is larger than any file of a node")
                    stream = tar.extractfile(member)
                    files[path] = stream.read() if stream else b""
                else:
                    raise SnapshotError(name, f"{member.name} is not a file, folder or symlink")
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise SnapshotError(name, f"is damaged: {error}") from error
    return files, links, frozenset(directories)


def _unpacked(name: str, packed: bytes) -> bytes:
    # Unpacked under a limit before the tar reader sees it: a header may announce any size.
    if packed[:2] != b"\x1f\x8b":
        raise SnapshotError(name, "is not a .tar.gz archive")
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(packed, _MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise SnapshotError(name, f"is damaged: {error}") from error
    if stream.unconsumed_tail:
        raise SnapshotError(name, f"unpacks to more than {_MAX_UNPACKED_BYTES >> 20} MiB")
    if not stream.eof:
        raise SnapshotError(name, "is truncated")
    return plain


def _from_folder(name: str, folder: str) -> _Content:
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    directories: set[str] = set()
    total = 0
    if not os.path.lexists(os.path.join(folder, FACTS)):
        raise SnapshotError(name, f"has no {FACTS}")  # before a walk over what may be a whole disk
    for base, subfolders, names in os.walk(folder):
        for entry in (*subfolders, *names):
            full = os.path.join(base, entry)
            path = _inside(name, os.path.relpath(full, folder))
            if path is None:
                continue
            if os.path.islink(full):
                links[path] = _link_target(name, path, os.readlink(full))
            elif os.path.isdir(full):
                directories.add(path)
            elif os.path.isfile(full):
                with open(full, "rb") as file:
                    files[path] = file.read(_MAX_MEMBER_BYTES)
                total += len(files[path])
            else:
                raise SnapshotError(name, f"{path} is not a file, folder or symlink")
            if total > _MAX_UNPACKED_BYTES or len(files) + len(links) > _MAX_MEMBERS:
                raise SnapshotError(name, "is larger than any node")
    return files, links, frozenset(directories)


def _inside(name: str, member: str) -> str | None:
    """Return the node's path of a member; ``None`` for parts that no replay reads."""
    if member.startswith("/") or "\0" in member:
        raise SnapshotError(name, f"{member} is an absolute path")
    parts = [part for part in member.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SnapshotError(name, f"{member} points outside the snapshot")
    if not parts or (parts[0] not in TOP and parts != [FACTS]):
        return None
    return "/" + "/".join(parts)


def _link_target(name: str, path: str, target: str) -> str:
    if len(target) > _MAX_PATH_CHARACTERS:
        raise SnapshotError(name, f"the link {path} has a target of {len(target)} characters")
    if target.startswith("/"):
        raise SnapshotError(name, f"the link {path} points outside the snapshot (to {target})")
    depth = path.count("/") - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise SnapshotError(name, f"the link {path} points outside the snapshot (to {target})")
    return target

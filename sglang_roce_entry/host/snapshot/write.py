"""Records a node: all that this program reads of it, and nothing else (``--save-snapshot``)."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.check_facts import read_check_facts
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import HostFacts, IpAddress, Libibverbs
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.snapshot.format import FACTS, FORMAT, TOP
from sglang_roce_entry.host.snapshot.masking import Mask, needed_lines
from sglang_roce_entry.host.snapshot.variables import is_recorded
from sglang_roce_entry.host.tree import ABSENT, Tree, errno_name, lines_or_empty
from sglang_roce_entry.unexpanded import names_in

_Read = TypeVar("_Read")


def record(
    host: Host,
    environ: Mapping[str, str],
    *,
    is_secret: Callable[[str], bool],
    masked: Callable[[str], str],
    resolved: Mapping[str, Iterable[IpAddress]],
    libibverbs: Libibverbs = Libibverbs(),  # noqa: B008 - frozen
    own_name: tuple[IpAddress, ...] | None = None,
    keep_identifiers: bool = False,
) -> tuple[dict[str, bytes], dict[str, str], dict[str, Any]]:
    """Return the files, links and facts of a snapshot of ``host``: all that was read, nothing else.

    ``is_secret`` tells the names of variables to leave out, ``masked`` hides credentials in the values of the
    others, both also in NCCL's files; ``resolved`` are the addresses looked up for this run, ``own_name`` those
    that the host name has (the name itself is not recorded), ``libibverbs`` what that answers. Hardware
    identifiers are replaced by numbers unless ``keep_identifiers``.
    """

    def kept(name: str) -> bool:
        return is_recorded(name) and not is_secret(name)

    def of_nccl(name: str) -> bool:
        return name.startswith("NCCL_") or kept(name)  # what is wrong with a line is said of each

    tree, mask = RecordingTree(host.tree), Mask(keep=keep_identifiers)
    recording = Host(tree, host.answers)
    facts = collect(recording, environ)
    facts = replace(facts, gpus=read_gpus(recording, places=True), libibverbs=libibverbs)
    check = read_check_facts(recording, facts.hcas, environ, own_name)
    for name in ("labels", "annotations"):
        lines_or_empty(tree, f"/etc/podinfo/{name}")
    document = {
        "format": FORMAT,
        **_answers(facts, mask),
        "errno": dict(sorted(tree.errors.items())),
        "resolve": {name: [str(address) for address in found] for name, found in resolved.items()},
        "routes": _routes(host, facts, (address for found in resolved.values() for address in found)),
        "check": check.answers(),
    }
    masked_files = mask.files(tree.files)
    # After the files: a list of visible devices may hold the start of a UUID in them.
    recorded = {name: masked(mask.uuids(value)) for name, value in sorted(environ.items()) if kept(name)}
    # Of what a $(NAME) in them refers to, only that it is there: it decides which remedy applies.
    named = {name: "" for value in recorded.values() for name in names_in(value) if name in environ}
    document["environ"] = named | recorded
    nccl_files = frozenset(path for path, _ in facts.nccl_files)
    tree.files = {path: needed_lines(path, text, nccl_files, of_nccl) for path, text in masked_files.items()}
    for path in nccl_files & tree.files.keys():
        tree.files[path] = "".join(map(masked, tree.files[path].splitlines(keepends=True)))
    files, links, other = _layout(tree, host.tree)
    if other:
        document["files"] = other
    return files, links, document


def _answers(facts: HostFacts, mask: Mask) -> dict[str, Any]:
    """Return what the system calls answered, as ``RecordedAnswers`` reads it."""
    found: dict[str, Any] = {
        "interfaces": {
            interface.name: {
                "up": interface.up,
                "mtu": interface.mtu,
                "speed_mbps": interface.speed_mbps,
                "addresses": [mask.address(str(address)) for address in interface.addresses],
            }
            for interface in facts.interfaces
        },
        "verbs": {hca.verbs: hca.verbs_answer for hca in facts.hcas if hca.verbs},
        "capabilities": ["CAP_IPC_LOCK"] if facts.ipc_lock else [],
        "versions": {
            "sglang": (facts.sglang_version or "unknown") if facts.sglang_installed else None,
            "nccl": ",".join(facts.nccl_versions) if facts.nccl_versions else None,
            "mooncake": facts.mooncake_version,
            **({"rocm": facts.rocm_version} if facts.rocm_version else {}),
        },
        "open": {**facts.gpus.nodes, **facts.imex_channels},
        "uid": facts.uid,
        "libibverbs": facts.libibverbs.loads,
        "net_plugins": list(facts.net_plugin_paths),
    }
    if facts.memlock_known:
        found["memlock"] = "unlimited" if facts.memlock_bytes is None else facts.memlock_bytes
    if facts.libibverbs.devices is not None:
        found["verbs_listed"] = list(facts.libibverbs.devices)
    if facts.libibverbs.failure is not None:
        found["verbs_failure"] = facts.libibverbs.failure
    if facts.gpus.count is not None:
        found["gpus"] = facts.gpus.count
    return found


def _routes(host: Host, facts: HostFacts, addresses: Iterable[IpAddress]) -> dict[str, dict[str, str]]:
    found = ((address, host.answers.route(address, facts.interfaces)) for address in addresses)
    return {
        str(address): {"interface": route.interface, "source": str(route.source)}
        for address, route in found
        if route is not None
    }


def _layout(tree: RecordingTree, inner: Tree) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """Return what was read as files below their real paths, and the links that lead there."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    other: dict[str, str] = {}
    real_of: dict[str, str] = {"/": "/"}

    def real_path(path: str) -> str:
        # One link at a time, so that every link in the path is recorded in its place.
        known = real_of.get(path)
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        step = f"{real_path(parent or '/').rstrip('/')}/{name}"
        real = inner.real(step) or step
        if real != step:
            links[step] = os.path.relpath(real, os.path.dirname(step))
        real_of[path] = real
        return real

    for path, content in tree.files.items():
        if path.split("/")[1] in TOP and not path.endswith("nccl.conf"):
            parent, _, name = path.rpartition("/")
            files[f"{real_path(parent)}/{name}"] = content.encode("utf-8", "surrogateescape")
        else:
            other[path] = content
    for path in (*tree.resolved, *tree.errors):
        real_path(path.rpartition("/")[0] if path in tree.errors else path)
    for path, names in tree.directories.items():
        files.setdefault(f"{real_path(path)}/", b"")
        for name in names:
            # What was listed has to be there, also where nothing below it was read.
            entry = real_path(f"{path}/{name}")
            if entry not in files:
                files.setdefault(f"{entry}/", b"")
    for path in tree.resolved.values():
        if path not in files:
            files.setdefault(f"{path}/", b"")
    return files, links, other


def pack(files: Mapping[str, bytes], links: Mapping[str, str], facts: Mapping[str, Any]) -> bytes:
    """Return the ``.tar.gz`` of a snapshot; equal content gives equal bytes, without times or owners."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        document = json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"
        _add(tar, FACTS, document)
        for path in sorted({*files, *links}):
            member = path.lstrip("/")
            if path in links:
                info = tarfile.TarInfo(member)
                info.type, info.linkname = tarfile.SYMTYPE, links[path]
                tar.addfile(info)
            elif path.endswith("/"):
                if path.rstrip("/") not in files:
                    info = tarfile.TarInfo(member.rstrip("/"))
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            else:
                _add(tar, member, files[path])
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


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
        self.files[path] = content = self._read(path, self._inner.attribute)
        return content

    def text(self, path: str) -> str:
        """Return a whole file and remember it."""
        self.files[path] = content = self._read(path, self._inner.text)
        return content

    def _read(self, path: str, read: Callable[[str], _Read]) -> _Read:
        try:
            return read(path)
        except OSError as error:
            self._remember_error(path, error)
            raise

    def _remember_error(self, path: str, error: OSError) -> None:
        if error.errno not in ABSENT:
            self.errors[path] = errno_name(error)

    def names(self, path: str) -> list[str]:
        """Return the entries of a directory and remember that it is one."""
        self.directories[path] = entries = self._read(path, self._inner.names)
        return entries

    def real(self, path: str) -> str | None:
        """Return the real path and remember where the links lead."""
        real = self._inner.real(path)
        if real is not None:
            self.resolved[path] = real
        return real

    def slots(self, path: str) -> list[tuple[str, bytes | OSError]]:
        """Return every attribute of this directory and remember what was read."""
        found = self._read(path, self._inner.slots)
        self.directories[path] = [name for name, _ in found]
        for name, content in found:
            full = f"{path}/{name}"
            if isinstance(content, OSError):
                self._remember_error(full, content)
            else:
                self.files[full] = content.decode("utf-8", "surrogateescape")
        return found

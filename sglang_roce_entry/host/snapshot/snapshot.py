"""Recorded nodes: what ``--save-snapshot`` writes and ``--snapshot`` replays.

A snapshot is a folder, or the same as ``.tar.gz``: files of the node below ``sys/ proc/ etc/ dev/``,
and ``facts.json`` for the answers of system calls. An archive is held in memory and never unpacked,
so a hostile one has nowhere to write to; it is refused all the same.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_interface
from typing import Any

from sglang_roce_entry.host.answers import interface_of
from sglang_roce_entry.host.asked import Tree
from sglang_roce_entry.host.check_facts import inspect
from sglang_roce_entry.host.collect import Host, collect
from sglang_roce_entry.host.facts import Interface, IpAddress, Route
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.network import in_order
from sglang_roce_entry.host.snapshot.masking import Mask, needed_lines
from sglang_roce_entry.host.tree import MemoryTree, RecordingTree
from sglang_roce_entry.problems import ConfigurationError

FORMAT = 1
FACTS = "facts.json"
_TOP = ("sys", "proc", "etc", "dev")

#: 32 HCAs with 1,024 slots and all their attributes are 100,000 members in 100 MB of tar.
_MAX_UNPACKED_BYTES = 256 << 20
_MAX_MEMBERS = 250_000
_MAX_MEMBER_BYTES = 16 << 20
#: Sysfs paths have 300 characters at most. A tree of folders is kept name by name: some bytes of an
#: archive can name a million of them.
_MAX_PATH_CHARACTERS = 1024
_MAX_FOLDERS = 500_000
#: Larger than any number of a node (``cap_eff``, a byte count), and not slow to read.
_MAX_DIGITS = 24
_PACKAGED = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "snapshots")


class SnapshotError(ConfigurationError):
    """A snapshot that cannot be read, or that must not be."""

    def __init__(self, name: str, reason: str, hint: str | None = None) -> None:
        known = ", ".join(packaged_names())
        colon = "" if reason.startswith(("is ", "has ", "unpacks ")) else ":"
        super().__init__(
            "SNAPSHOT",
            f"snapshot {name!r}{colon} {reason}",
            hint or f"give a folder or .tar.gz that --save-snapshot wrote, or one of: {known}",
        )


def packaged_names() -> list[str]:
    """Return the names of the snapshots that the package carries."""
    try:
        entries = os.listdir(_PACKAGED)
    except OSError:
        return []
    return sorted(name.removesuffix(".tar.gz") for name in entries if name.endswith(".tar.gz"))


def load(name: str) -> tuple[Host, dict[str, str]]:
    """Return the recorded host of a folder, an archive or a packaged name, and its environment.

    Raises :class:`SnapshotError`.
    """
    path = name
    if not os.path.exists(path) and name in packaged_names():
        path = os.path.join(_PACKAGED, f"{name}.tar.gz")
    try:
        if os.path.isdir(path):
            files, links, directories = _from_folder(name, path)
        else:
            with open(path, "rb") as archive:
                files, links, directories = _from_archive(name, archive.read(_MAX_UNPACKED_BYTES))
    except OSError as error:
        raise SnapshotError(name, error.strerror or str(error)) from error
    facts = _facts(name, files.pop(f"/{FACTS}", None))
    errors = _strings(name, facts, "errno")
    for extra, text in _strings(name, facts, "files").items():
        # normpath keeps two leading slashes, which POSIX allows to mean something else.
        files.setdefault(os.path.normpath("/" + extra.lstrip("/")), text.encode("utf-8", "surrogateescape"))
    named = (*_mapping(name, facts, "open"), *_mapping(name, facts, "interfaces"))
    _refuse_large_tree(name, {*files, *links, *errors, *directories, *named})
    host = Host(MemoryTree(files, links, errors, directories), RecordedAnswers(name, facts))
    return host, _strings(name, facts, "environ")


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
                    # Its size is only said: a kilobyte of archive would become gigabytes.
                    raise SnapshotError(name, f"{member.name} is a sparse file or has no size")
                elif member.isreg():
                    if member.size > _MAX_MEMBER_BYTES:
                        raise SnapshotError(name, f"{member.name} is larger than any file of a node")
                    stream = tar.extractfile(member)
                    files[path] = stream.read() if stream else b""
                else:
                    raise SnapshotError(name, f"{member.name} is neither file, folder nor symlink")
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
                raise SnapshotError(name, f"{path} is neither file, folder nor symlink")
            if total > _MAX_UNPACKED_BYTES or len(files) + len(links) > _MAX_MEMBERS:
                raise SnapshotError(name, "is larger than any node")
    return files, links, frozenset(directories)


def _inside(name: str, member: str) -> str | None:
    """Return the node's path of a member; ``None`` for parts that no replay reads."""
    if member.startswith("/") or "\0" in member:
        raise SnapshotError(name, f"{member} is an absolute path")
    parts = [part for part in member.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SnapshotError(name, f"{member} leads outside the snapshot")
    if not parts or (parts[0] not in _TOP and parts != [FACTS]):
        return None
    return "/" + "/".join(parts)


def _link_target(name: str, path: str, target: str) -> str:
    if len(target) > _MAX_PATH_CHARACTERS:
        raise SnapshotError(name, f"the link {path} has a target of {len(target)} characters")
    if target.startswith("/"):
        raise SnapshotError(name, f"the link {path} leads outside the snapshot (to {target})")
    depth = path.count("/") - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise SnapshotError(name, f"the link {path} leads outside the snapshot (to {target})")
    return target


def _facts(name: str, raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise SnapshotError(name, f"has no {FACTS}")
    try:
        facts = json.loads(raw, parse_int=_whole)
        # Half a surrogate pair is no text, and NaN and Infinity are no JSON.
        json.dumps(facts, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError) as error:
        raise SnapshotError(name, f"{FACTS} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise SnapshotError(name, f"{FACTS} is not an object")
    version = facts.get("format")
    if isinstance(version, int) and version > FORMAT:
        reason = f"was written by a newer sglang-roce-entry (format {version}, this program reads {FORMAT})"
        raise SnapshotError(name, reason, "replay it with the release that wrote it, or a later one")
    if version != FORMAT:
        raise SnapshotError(name, f"has format {version!r}, this program reads format {FORMAT}")
    return facts


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _mapping(name: str, facts: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = facts.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SnapshotError(name, f"{FACTS}: {key!r} is not an object")
    return value


def _strings(name: str, facts: Mapping[str, Any], key: str) -> dict[str, str]:
    return {entry: value for entry, value in _mapping(name, facts, key).items() if isinstance(value, str)}


class RecordedAnswers:
    """The answers in a snapshot's ``facts.json``. A missing key means "not known"."""

    live = False

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        self._name = name
        self._facts = facts
        self._verbs = _strings(name, facts, "verbs")
        self._open = _strings(name, facts, "open")
        self._interfaces = in_order(self._read_interfaces())

    def _read_interfaces(self) -> Iterator[Interface]:
        for interface, value in _mapping(self._name, self._facts, "interfaces").items():
            try:
                yield Interface(
                    interface,
                    bool(value["up"]),
                    int(value.get("mtu") or 0),
                    int(value.get("speed_mbps") or 0),
                    tuple(ip_interface(text) for text in value.get("addresses", ())),
                )
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                reason = f"{FACTS}: interface {interface!r} is malformed: {error}"
                raise SnapshotError(self._name, reason) from error

    def interfaces(self) -> tuple[Interface, ...]:
        """Return the recorded interfaces."""
        return self._interfaces

    def open_verbs(self, uverbs: str, numbers: str | None) -> str:  # noqa: ARG002 - as recorded
        """Return the recorded answer; a device that is not listed has no node."""
        return self._verbs.get(uverbs, "ENOENT")

    def open_node(self, path: str) -> str:
        """Return the recorded answer; a node that is not listed does not exist."""
        return self._open.get(path, "ENOENT")

    def device_nodes(self, prefix: str) -> list[str]:
        """Return the recorded device nodes ``<prefix><number>``, by number."""
        numbers = [path[len(prefix) :] for path in self._open if path.startswith(prefix)]
        return [f"{prefix}{number}" for number in sorted(int(n) for n in numbers if n.isdecimal())]

    def memlock(self) -> tuple[bool, int | None]:
        """Return the recorded limit."""
        value = self._facts.get("memlock")
        if value == "unlimited":
            return True, None
        return (True, value) if isinstance(value, int) else (False, None)

    def ipc_lock(self, tree: Tree) -> bool | None:  # noqa: ARG002 - recorded, not read
        """Return whether CAP_IPC_LOCK is among the recorded capabilities."""
        value = self._facts.get("capabilities")
        return "CAP_IPC_LOCK" in value if isinstance(value, list) else None

    def uid(self) -> int | None:
        """Return the recorded user id."""
        value = self._facts.get("uid")
        return value if isinstance(value, int) else None

    def libibverbs(self) -> str | None:
        """Return the recorded answer of loading libibverbs."""
        value = self._facts.get("libibverbs")
        return value if isinstance(value, str) else None

    def nccl_versions(self, environ: Mapping[str, str]) -> tuple[str, ...] | None:  # noqa: ARG002
        """Return the recorded versions of NCCL: ``null`` means none is installed."""
        versions = _mapping(self._name, self._facts, "versions")
        if "nccl" not in versions:
            return None
        value = versions["nccl"]
        # Several wheels side by side are recorded as one text.
        return tuple(str(value).split(",")) if value else ()

    def sglang(self) -> tuple[bool | None, str | None]:
        """Return whether SGLang was installed (``null`` means not) and its version."""
        versions = _mapping(self._name, self._facts, "versions")
        if "sglang" not in versions:
            return None, None
        value = versions["sglang"]
        return value is not None, str(value) if value and value != "unknown" else None

    def mooncake(self) -> str | None:
        """Return the recorded version of Mooncake's transfer engine."""
        value = _mapping(self._name, self._facts, "versions").get("mooncake")
        return str(value) if value else None

    def nccl_file_paths(self, environ: Mapping[str, str], version: tuple[int, ...] | None) -> list[str]:
        """Return NCCL's configuration files among the recorded ones, in NCCL's order."""
        recorded = list(_strings(self._name, self._facts, "files"))
        configured = environ.get("NCCL_CONF_FILE", "")
        if configured and (version is None or version >= (2, 23)):
            first = [configured]
        else:
            first = [path for path in recorded if path.endswith("/.nccl.conf")]
        return [*first, "/etc/nccl.conf"]

    def net_plugins(self) -> tuple[str, ...]:
        """Return the recorded folders of external NCCL net plugins."""
        value = self._facts.get("net_plugins")
        return tuple(str(path) for path in value) if isinstance(value, list) else ()

    def gpu_count(self) -> int | None:
        """Return the recorded number of GPUs."""
        value = self._facts.get("gpus")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def route(self, address: IpAddress, interfaces: tuple[Interface, ...]) -> Route | None:
        """Return the recorded route, else the interface whose network holds ``address``."""
        value = _mapping(self._name, self._facts, "routes").get(str(address))
        if isinstance(value, dict):
            try:
                source = ip_address(str(value["source"]))
            except (KeyError, ValueError):
                return None
            owner = str(value.get("interface") or interface_of(source, interfaces) or "")
            return Route(owner, source) if owner else None
        for interface in interfaces:
            for own in interface.addresses:
                if own.version == address.version and address in own.network and own.ip != address:
                    return Route(interface.name, own.ip)
        return None

    def resolve(self, name: str) -> list[IpAddress] | None:
        """Return the recorded addresses of ``name``, ``None`` if it was not looked up."""
        value = _mapping(self._name, self._facts, "resolve").get(name)
        if not isinstance(value, list):
            return None
        try:
            return [ip_address(text) for text in value]
        except ValueError as error:
            raise SnapshotError(self._name, f"{FACTS}: resolve {name!r}: {error}") from error

    def recorded_check(self) -> Mapping[str, Any] | None:
        """Return the recorded answers for ``--check``; none in a recording that has no such part."""
        return _mapping(self._name, self._facts, "check")


#: Variables that decide something here; others stay on the node.
_ENVIRON_PREFIXES = (
    "LWS_", "NCCL_", "SGLANG_", "NVSHMEM_", "UCX_", "MC_", "GLOO_", "MOONCAKE_",
)  # fmt: skip
_ENVIRON_NAMES = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "HOST_IP",
        "LD_LIBRARY_PATH",
        "NVIDIA_VISIBLE_DEVICES",
        "POD_IP",
        "POD_NAME",
        "ROCR_VISIBLE_DEVICES",
    }
)


def is_recorded(name: str) -> bool:
    """Return whether a variable of this name decides something here."""
    return name.startswith(_ENVIRON_PREFIXES) or name in _ENVIRON_NAMES


def record(
    host: Host,
    environ: Mapping[str, str],
    *,
    secret: Container[str],
    resolved: Mapping[str, Iterable[IpAddress]],
    own_name: tuple[IpAddress, ...] | None = None,
    keep_identifiers: bool = False,
) -> tuple[dict[str, bytes], dict[str, str], dict[str, Any]]:
    """Return the files, links and facts of a snapshot of ``host``: all that was read, nothing else.

    ``secret`` holds the names of variables to leave out, ``resolved`` the addresses looked up for this run,
    ``own_name`` those that the host name has (the name itself is not recorded). Hardware identifiers
    are replaced by numbers unless ``keep_identifiers``.
    """

    def kept(name: str) -> bool:
        return is_recorded(name) and name not in secret

    tree = RecordingTree(host.tree)
    mask = Mask(keep=keep_identifiers)
    recording = Host(tree, host.answers)
    facts = collect(recording, environ)
    gpus = read_gpus(recording, places=True)
    inspection = inspect(recording, facts.hcas, environ, own_name)
    for path in ("/etc/podinfo/labels", "/etc/podinfo/annotations"):
        try:
            tree.text(path)
        except OSError:
            continue
    addresses = {name: [str(address) for address in found] for name, found in resolved.items()}
    routes = {}
    for address in (address for found in resolved.values() for address in found):
        route = host.answers.route(address, facts.interfaces)
        if route is not None:
            routes[str(address)] = {"interface": route.interface, "source": str(route.source)}
    known, limit = host.answers.memlock()
    document: dict[str, Any] = {
        "format": FORMAT,
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
        "errno": dict(sorted(tree.errors.items())),
        "capabilities": ["CAP_IPC_LOCK"] if facts.ipc_lock else [],
        "resolve": addresses,
        "versions": {
            "sglang": (facts.sglang_version or "unknown") if facts.sglang_installed else None,
            "nccl": ",".join(facts.nccl_versions) if facts.nccl_versions else None,
            "mooncake": facts.mooncake_version,
        },
        "routes": routes,
        "open": dict(gpus.nodes),
        "uid": facts.uid,
        "libibverbs": facts.libibverbs,
        "net_plugins": list(facts.net_plugin_paths),
        "check": inspection.answers(),
    }
    masked_files = mask.files(tree.files)
    # After the files: a list of visible devices may hold the start of a UUID that stands there.
    document["environ"] = {name: mask.uuids(value) for name, value in sorted(environ.items()) if kept(name)}
    if known:
        document["memlock"] = "unlimited" if limit is None else limit
    if gpus.count is not None:
        document["gpus"] = gpus.count
    nccl_files = frozenset(path for path, _ in facts.nccl_files)
    tree.files = {path: needed_lines(path, text, nccl_files, kept) for path, text in masked_files.items()}
    files, links, other = _layout(tree, host.tree)
    if other:
        document["files"] = other
    return files, links, document


def _layout(tree: RecordingTree, inner: Tree) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """Return what was read as files below their real paths, and the links that lead there."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    other: dict[str, str] = {}
    real_of: dict[str, str] = {"/": "/"}

    def real_path(path: str) -> str:
        # One link at a time, so that every link on the way is recorded where it stands.
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
        if path.split("/")[1] in _TOP and not path.endswith("nccl.conf"):
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

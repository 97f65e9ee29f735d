"""What a snapshot leaves out: identifiers of hardware, and lines that nothing here reads.

Port GUIDs and MAC addresses are part of link-local GIDs and addresses (EUI-64), and GPU UUIDs of the
lists of visible devices and the driver's files. Each is replaced by a number, the same one everywhere, so
that what belonged together still does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from ipaddress import IPv6Address

_GID_FILE = re.compile(r"^(?P<port>.*/infiniband/[^/]+/ports/\d+)/gids/\d+$")
#: A whole UUID, or the start of one, which a list of visible devices may hold.
_GPU_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F-]*")
_GPU_FILES = "/proc/driver/nvidia/gpus/"
_LINK_LOCAL = 0xFE80 << 112
_INTERFACE_MASK = (1 << 64) - 1
#: The middle of an EUI-64 that was made of a MAC address (RFC 4291, appendix A).
_OF_MAC = 0xFFFE
#: Labels and annotations that identify a pod; others can hold anything.
_IDENTITY_KEYS = ("leaderworkerset.", "apps.kubernetes.io/pod-index", "statefulset.kubernetes.io/pod-name")
_RESOLVER_KEYS = ("search", "domain", "nameserver", "options")


class Mask:
    """Replaces identifiers by numbers. With ``keep`` it replaces none."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._numbers: dict[object, int] = {}

    def _number(self, identifier: object) -> int:
        return self._numbers.setdefault(identifier, len(self._numbers) + 1)

    def address(self, text: str) -> str:
        """Return an interface address (``fe80::.../64``) with the MAC in it replaced."""
        plain, slash, length = text.partition("/")
        if self._keep or ":" not in plain:
            return text
        value = int(IPv6Address(plain))
        return f"{IPv6Address(self._masked(value, every=False))}{slash}{length}"

    def files(self, files: Mapping[str, str]) -> dict[str, str]:
        """Return the files of a tree with the identifiers in its GID tables replaced."""
        if self._keep:
            return dict(files)
        done = {}
        for path, text in files.items():
            match = _GID_FILE.match(path)
            if path.startswith(_GPU_FILES):
                done[path] = self.uuids(text)
            elif match is None:
                done[path] = text
            else:
                infiniband = files.get(f"{match['port']}/link_layer", "").strip() == "InfiniBand"
                done[path] = self._gid(text, every=infiniband)
        return done

    def _gid(self, text: str, *, every: bool) -> str:
        digits = text.strip().replace(":", "")
        if len(digits) != 32 or not set(digits) <= set("0123456789abcdefABCDEF") or not int(digits, 16):
            return text
        masked = f"{self._masked(int(digits, 16), every=every):032x}"
        return text.replace(text.strip(), ":".join(masked[i : i + 4] for i in range(0, 32, 4)))

    def _masked(self, value: int, *, every: bool) -> int:
        # On InfiniBand the lower half is the port's GUID whatever the subnet prefix.
        identifier = value & _INTERFACE_MASK
        prefix = value & ~_INTERFACE_MASK
        of_mac = identifier >> 24 & 0xFFFF == _OF_MAC
        if every or (prefix == _LINK_LOCAL and of_mac):
            return prefix | self._number(identifier)
        return value

    def uuids(self, text: str) -> str:
        """Return a text with GPU UUIDs replaced; the start of a known one counts as that one."""
        if self._keep:
            return text

        def masked(match: re.Match[str]) -> str:
            known = (one for one in self._numbers if isinstance(one, str) and one.startswith(match[0]))
            return f"{match[1]}-00000000-0000-0000-0000-{self._number(next(known, match[0])):012d}"

        return _GPU_UUID.sub(masked, text)


def needed_lines(path: str, text: str, nccl_files: Container[str], is_variable: Callable[[str], bool]) -> str:
    """Return the lines of a file that a replay reads; ``is_variable`` decides which variables are recorded.

    Files that hold only what is read come back as they are.
    """
    if path.startswith("/etc/podinfo/"):
        return _lines(text, lambda line: line.startswith(_IDENTITY_KEYS))
    if path == "/etc/resolv.conf":
        return _lines(text, lambda line: line.split()[:1] != [] and line.split()[0] in _RESOLVER_KEYS)
    if path in nccl_files:
        # A comment instead of what is left out: problems name the lines of these files by number.
        return _lines(text, lambda line: is_variable(line.partition("=")[0].strip()), instead="#\n")
    return text


def _lines(text: str, wanted: Callable[[str], bool], instead: str = "") -> str:
    return "".join(line if wanted(line) else instead for line in text.splitlines(keepends=True))

"""External NCCL net plugins: where one is in use, this program reports it and sets nothing."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.fabric.wishes import Given

#: Names that NCCL's own transports answer to (``NCCL_NET``, case-insensitive).
_BUILT_IN = frozenset({"ib", "socket"})
#: Words in ``NCCL_NET``, ``NCCL_NET_PLUGIN`` or a library folder, and the plugin they stand for.
_KNOWN = (
    ("gib", "Google gIB"),
    ("ofi", "aws-ofi-nccl"),
    ("aws", "aws-ofi-nccl"),
    ("fastrak", "Google GPUDirect-TCPXO"),
    ("tcpx", "Google GPUDirect-TCPX"),
)


def external_plugin(decided: Mapping[str, Given], plugin_folders: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the name of a recognised external net plugin and how it was recognised, else ``None``.

    A folder alone is not enough: the loader must be told to look there (``LD_LIBRARY_PATH``).
    """
    for name in ("NCCL_NET", "NCCL_NET_PLUGIN"):
        given = decided.get(name)
        if given is None or given.value.lower() in _BUILT_IN or given.value == "none":
            continue
        known = _known(given.value)
        if known:
            return known, f"{name}={given.value} in {given.where}"
    disabled = decided.get("NCCL_NET_PLUGIN")
    if disabled is not None and disabled.value == "none":
        return None
    library_path = decided.get("LD_LIBRARY_PATH")
    searched = library_path.value.split(":") if library_path else []
    for folder in plugin_folders:
        if any(part == folder or part.startswith(f"{folder}/") for part in searched):
            return _known(folder) or folder, f"{folder} in LD_LIBRARY_PATH"
    return None


def _known(text: str) -> str | None:
    lowered = text.lower()
    return next((name for word, name in _KNOWN if word in lowered), None)

"""External NCCL net plugins: where one is in use, this program reports it and sets nothing."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.fabric.wishes import Given

#: Names that NCCL's own transports answer to (``NCCL_NET``, case-insensitive).
_BUILT_IN = frozenset({"ib", "socket"})
_GIB = "Google gIB"
#: Where Google's installer puts it, and what an image has sourced before NCCL starts.
_GIB_SCRIPT = "/usr/local/gib/scripts/set_nccl_env.sh"
#: Variables that point to a plugin without choosing it.
_PLACES = ("LD_LIBRARY_PATH", "NCCL_PLUGIN_PATH", "NCCL_INIT_SCRIPT")
#: Words in ``NCCL_NET``, ``NCCL_NET_PLUGIN`` or a library folder, and the plugin they stand for.
_KNOWN = (
    ("gib", _GIB),
    ("anp", "AMD ANP"),  # librccl-anp.so, by NCCL_NET_PLUGIN (ROCm/amd-anp)
    ("ofi", "aws-ofi-nccl"),
    ("aws", "aws-ofi-nccl"),
    ("fastrak", "Google GPUDirect-TCPXO"),
    ("tcpx", "Google GPUDirect-TCPX"),
)


def external_plugin(decided: Mapping[str, Given], plugin_folders: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the name of a recognised external net plugin and how it was recognised, else ``None``.

    A folder alone is not enough: the loader must be told to look there (``LD_LIBRARY_PATH``). A file is what RCCL
    loads by itself, librccl-net.so, under its real path.
    """
    for name in ("NCCL_NET", "NCCL_NET_PLUGIN"):
        given = decided.get(name)
        if given is None or given.value.lower() in _BUILT_IN or given.value == "none":
            continue
        known = _known(given.value)
        if known:
            return known, f"{name}={given.value} in {given.place}"
    disabled = decided.get("NCCL_NET_PLUGIN")
    if disabled is not None and disabled.value == "none":
        return None
    library_path = decided.get("LD_LIBRARY_PATH")
    searched = library_path.value.split(":") if library_path else []
    for file in plugin_folders:
        if file.endswith(".so") and not {"NCCL_NET", "NCCL_NET_PLUGIN"} & decided.keys():
            return _known(file) or file, f"RCCL loads {file} as its librccl-net.so"
    for folder in plugin_folders:
        if any(part == folder or part.startswith(f"{folder}/") for part in searched):
            return _known(folder) or folder, f"{folder} in LD_LIBRARY_PATH"
    return None


def idle_plugin(decided: Mapping[str, Given], plugin_folders: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Return the name of a plugin that is here and that NCCL is not told to use, where it is, and what to do.

    A launcher that is the entrypoint comes before any shell that would have sourced gIB's variables.
    """
    off = decided.get("NCCL_NET_PLUGIN")
    if "NCCL_NET" in decided or (off is not None and off.value == "none"):
        return None
    named = {name: one.value for name in _PLACES if (one := decided.get(name)) is not None}
    gib = [folder for folder in plugin_folders if folder.endswith("/gib")]
    gib += [name for name, value in named.items() if "/usr/local/gib/" in value]
    if gib:
        remedy = (
            f"source {_GIB_SCRIPT} before the launcher: command: [bash, -c, 'source {_GIB_SCRIPT}; exec "
            'sglang-roce-entry "$@"\', --], or write its variables into env'
        )
        return _GIB, gib[0], remedy
    for folder in plugin_folders:
        if not folder.endswith(".so") and folder not in named.get("LD_LIBRARY_PATH", ""):
            lib = f"{folder}/lib, on Ubuntu {folder}/lib/x86_64-linux-gnu"
            return _known(folder) or folder, folder, f"put its library folder into LD_LIBRARY_PATH: {lib}"
    return None


def _known(text: str) -> str | None:
    lowered = text.lower()
    return next((name for word, name in _KNOWN if word in lowered), None)

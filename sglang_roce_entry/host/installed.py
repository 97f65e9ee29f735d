"""Installed versions, found without importing anything they name.

The names of the ``*.dist-info`` folders are read, not ``importlib.metadata``: importing that costs as
much as five interpreter starts, and this is read at every launch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

#: The wheels that carry libnccl.so.2, by CUDA release.
NCCL_DISTRIBUTIONS = ("nvidia-nccl-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu11")
_LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
)
_NCCL_DIRECTORIES = (*_LIBRARY_DIRECTORIES, "/usr/local/lib", "/usr/local/nccl/lib")


def distribution_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of ``names`` that this interpreter has, the first on its path counts."""
    wanted = set(names)
    found: dict[str, str] = {}
    for path in sys.path:
        try:
            entries = os.listdir(path or ".")
        except OSError:
            continue  # a zip file or a folder that does not exist: ordinary members of sys.path
        for entry in entries:
            if not entry.endswith((".dist-info", ".egg-info")):
                continue
            stem = entry.rpartition(".")[0]
            name, _, version = stem.partition("-")
            normal = name.lower().replace("_", "-").replace(".", "-")
            if normal in wanted and version:
                found.setdefault(normal, version.partition("-")[0])
    return found


def nccl_versions(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the versions of NCCL that a process here may load; empty if none was found.

    Several wheels side by side give several. Without a wheel it is the version in the real file name of
    a system ``libnccl.so.2``.
    """
    wheels = distribution_versions(NCCL_DISTRIBUTIONS)
    if wheels:
        return tuple(sorted(set(wheels.values())))
    directories = [part for part in environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    for directory in (*directories, *_NCCL_DIRECTORIES):
        real = os.path.realpath(f"{directory}/libnccl.so.2")
        version = os.path.basename(real).removeprefix("libnccl.so.")
        if version.count(".") >= 1 and os.path.exists(real):
            return (version,)
    return ()


#: What RCCL loads where NCCL_NET_PLUGIN names nothing else (``src/plugin/net.cc``), and where the loader looks.
_RCCL_NET_PLUGIN = "librccl-net.so"
_RCCL_DIRECTORIES = ("/opt/rocm/lib", *_LIBRARY_DIRECTORIES, "/usr/local/lib")


def rccl_net_plugin(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the real path of RCCL's default net plugin, which tells what it is, or nothing."""
    directories = [part for part in environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    paths = (f"{directory.rstrip('/')}/{_RCCL_NET_PLUGIN}" for directory in (*directories, *_RCCL_DIRECTORIES))
    return tuple(os.path.realpath(path) for path in paths if os.path.isfile(path))[:1]


#: First releases of ROCm with an RCCL cut from this release of NCCL (ROCm/rocm-systems, the changelog of
#: projects/rccl). Its scan of the GID table is that release's (net_ib_rocm.cc is the same file, patched).
_RCCL = (
    ((7, 14), "2.30.4"),
    ((7, 11), "2.28.3"),
    ((7, 1), "2.27.7"),
    ((7, 0), "2.26.6"),
    ((6, 4), "2.22.3"),
    ((6, 3), "2.21.5"),
    ((6, 2), "2.20.5"),
)
#: From this release on SGLang's images for ROCm have 6.3 or later (lmsysorg/sglang:v0.4.3-rocm630).
_ON_ROCM_6_3 = (0, 4, 3)


def rccl_as_nccl(rocm: str | None, sglang: str | None) -> tuple[str, ...]:
    """Return the release of NCCL that the RCCL of this ROCm was cut from, empty if it is not known.

    Without ROCm's release it is the oldest that an image with this SGLang has.
    """
    release = parse_version(rocm)
    if release is None:
        version = parse_version(sglang)
        return ("2.21.5",) if version is not None and version >= _ON_ROCM_6_3 else ()
    return tuple(nccl for first, nccl in _RCCL if release >= first)[:1]


def rocm_version() -> str | None:
    """Return the release of ROCm whose RCCL torch loads: that of torch's wheel, else of ``/opt/rocm``."""
    wheel = re.search(r"\+rocm(\d+(?:\.\d+)+)", distribution_versions(("torch",)).get("torch", ""))
    if wheel is not None:
        return wheel[1]
    try:
        with open("/opt/rocm/.info/version", encoding="utf-8") as file:
            return file.read(64).partition("-")[0].strip() or None
    except (OSError, UnicodeDecodeError):
        pass
    # librccl.so.1.0.60300 of 6.3.0
    number = os.path.basename(os.path.realpath("/opt/rocm/lib/librccl.so.1")).rpartition(".")[2]
    return f"{int(number[:-4])}.{int(number[-4:-2])}" if re.fullmatch(r"\d{5,6}", number) else None


#: Wheels of Mooncake's transfer engine, by what they are built for.
MOONCAKE_DISTRIBUTIONS = (
    "mooncake-transfer-engine",
    "mooncake-transfer-engine-cuda13",
    "mooncake-transfer-engine-non-cuda",
)


#: Wheels of NVSHMEM, by the CUDA they are built for.
NVSHMEM_DISTRIBUTIONS = ("nvidia-nvshmem-cu13", "nvidia-nvshmem-cu12")


def mooncake_version() -> str | None:
    """Return the version of Mooncake's transfer engine, ``None`` if no wheel of it is installed."""
    return first_version(distribution_versions(MOONCAKE_DISTRIBUTIONS), MOONCAKE_DISTRIBUTIONS)


def driver_version(line: str | None) -> str | None:
    """Return ``580.95.05`` of the first line of ``/proc/driver/nvidia/version``, ``None`` if it names none."""
    version = re.search(r"\s(\d+(\.\d+)+)\s", f"{line or ''} ")
    return version[1] if version is not None else None


def first_version(found: Mapping[str, str], names: Iterable[str]) -> str | None:
    """Return the version of the first of ``names`` that is installed, ``None`` if none is."""
    return next((found[name] for name in names if name in found), None)


def sglang_version() -> tuple[bool, str | None]:
    """Return whether this interpreter can run ``-m sglang.launch_server``, and SGLang's version."""
    try:
        spec = find_spec("sglang")  # a top-level name: nothing is imported
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not any(os.path.exists(os.path.join(place, "launch_server.py")) for place in places):
        return False, None
    version = distribution_versions(("sglang",)).get("sglang")
    return True, version or _version_file(places)


def _version_file(places: list[str]) -> str | None:
    # An editable install may have no dist-info on sys.path; releases write sglang/version.py.
    for place in places:
        for name in ("version.py", "_version.py", "__init__.py"):
            try:
                with open(os.path.join(place, name), encoding="utf-8") as file:
                    lines = file.read(65536).splitlines()
            except (OSError, UnicodeDecodeError):
                continue
            for line in lines:
                key, equals, value = line.partition("=")
                if equals and key.split(":")[0].strip() in ("__version__", "version"):
                    text = value.strip().strip("\"'")
                    if text[:1].isdigit():
                        return text
    return None


def rdma_core_version() -> str | None:
    """Return the version of rdma-core: ``39.0`` of ``libibverbs.so.1.14.39.0`` (its CMakeLists.txt)."""
    for directory in _LIBRARY_DIRECTORIES:
        parts = os.path.basename(os.path.realpath(f"{directory}/libibverbs.so.1")).split(".")
        if len(parts) >= 6 and parts[-1].isdecimal():
            return ".".join(parts[4:])
    return None


def parse_version(text: str | None) -> tuple[int, ...] | None:
    """Return the leading numbers of a version: ``2.26.2.post1`` gives ``(2, 26, 2)``; ``None`` without any."""
    found = re.match(r"\d+(?:\.\d+)*", (text or "")[:64])
    return tuple(map(int, found[0].split("."))) if found else None


def oldest_version(texts: Iterable[str] | None) -> tuple[int, ...] | None:
    """Return the lowest of some versions, ``None`` without any."""
    versions = [parse_version(text) for text in texts or ()]
    return min((version for version in versions if version), default=None)


def nccl_files_in_order(
    environ: Mapping[str, str], version: tuple[int, ...] | None, of_home: Iterable[str]
) -> list[str]:
    """Return the files of NCCL's ``initEnv``: NCCL_CONF_FILE (2.23+) or those of the home, then /etc."""
    configured = environ.get("NCCL_CONF_FILE", "")
    if configured and (version is None or version >= (2, 23)):
        of_home = (configured,)
    return [*of_home, "/etc/nccl.conf"]

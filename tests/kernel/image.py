"""A bootable kernel with soft-RoCE, made from Debian's own package, which is never installed.

`bootable_kernel` downloads the `linux-image-*-amd64` package that `linux-image-amd64` depends on now, and
leaves in a cache directory what QEMU needs: the kernel and an initramfs with some thirty modules, busybox
and the init script.

Two of the modules are loaded with a few bytes changed, because soft-RoCE differs from a hardware HCA in
two points that matter here. A pattern that is not found exactly once is an error, never a silently
different guest.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.archive import Archive, KernelUnavailableError, archive_of, cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Depends on the distribution's kernel of today; SGLANG_ROCE_TEST_KERNEL names another meta package.
META_PACKAGE = "linux-image-amd64"

# Loaded in this order, each after what its `depends=` names. The first line is the root file system.
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay"),
    *("virtio_net", "crc32_generic", "ib_core", "ib_uverbs", "rdma_ucm", "rdma_rxe"),
    *("bonding", "8021q", "veth"),
    *("bridge", "sch_ingress", "sch_netem", "cls_u32", "act_gact"),
)

# virtio_pci is built in on some kernels, and a built-in module has no file; these must have one.
INDISPENSABLE = frozenset(
    {"9p", "overlay", "virtio_net", "ib_core", "ib_uverbs", "rdma_rxe", "bonding", "8021q", "veth"}
)

MODULE_SIGNATURE_MARK = b"~Module signature appended~\n"

INIT = Path(__file__).with_name("init.sh")


@dataclass(frozen=True)
class BootableKernel:
    """Files for QEMU's `-kernel` and `-initrd`, and the package they come from."""

    kernel: Path
    initramfs: Path
    package: str


def bootable_kernel(*, download: bool = True, suite: str = "") -> BootableKernel:
    """Return what an earlier call left of the current kernel, or `download` and prepare it.

    It is the one of a `suite` of Debian's, in which HCAs stay in their namespace, or of this machine's own package
    lists. Raises KernelUnavailableError with one sentence that says what is missing.
    """
    archive = archive_of(suite, download=download) if suite else Archive()
    package, version = _current_package(archive, META_PACKAGE if suite else "")
    recipe = hashlib.sha256(Path(__file__).read_bytes() + INIT.read_bytes()).hexdigest()[:12]
    name = f"{package}_{version}".replace(":", "%3a").replace("/", "_")
    directory = cache_directory() / f"{name}_{recipe}{'_fixed' if suite else ''}"
    kernel = BootableKernel(directory / "kernel", directory / "initramfs", f"{package} {version}")
    if not directory.is_dir() and not download:
        raise KernelUnavailableError(f"needs the package {package} {version}, not in {cache_directory()}")
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix="building-") as building:
            _build(archive, package, version, Path(building), movable=not suite)
            try:
                os.rename(Path(building) / "finished", directory)
            except OSError:
                if not directory.is_dir():  # else another run was faster
                    raise
    return kernel


def _current_package(archive: Archive, meta_package: str) -> tuple[str, str]:
    """Name and version of the package that the meta package depends on, from apt's lists."""
    meta_package = meta_package or os.environ.get("SGLANG_ROCE_TEST_KERNEL") or META_PACKAGE
    try:
        image = next(one for one in archive.depends(meta_package) if re.fullmatch(r"linux-image-\S+-amd64", one))
        return image, archive.version(image)
    except (OSError, subprocess.CalledProcessError, StopIteration, IndexError) as error:
        raise KernelUnavailableError(
            f"needs Debian's package lists: `apt-cache depends {meta_package}` names no kernel (apt-get update?)"
        ) from error


def _build(archive: Archive, package: str, version: str, building: Path, *, movable: bool) -> None:
    """Fill `building`/finished with `kernel` and `initramfs` of one package."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise KernelUnavailableError("needs the package busybox-static")
    # Since 7.0 the image's package is empty, and what was in it is in two that it depends on.
    parts = [one for one in archive.depends(package) if re.match("linux-(binary|modules)-", one)]
    archive.get("download", *(f"{one}={version}" for one in (package, *parts)), folder=building)
    unpacked = building / "unpacked"
    for deb in building.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
    modules = _load_order({path.name.split(".")[0].replace("-", "_"): path for path in unpacked.rglob("*.ko*")})
    contents = {name: _module_bytes(path) for name, path in modules.items()}
    unchanged = contents["rdma_rxe"]
    contents["rdma_rxe"] = with_roce_v1_gids(contents["rdma_rxe"])
    if movable:
        contents["ib_core"] = with_software_devices_movable(contents["ib_core"])
    finished = building / "finished"
    finished.mkdir()
    (finished / "kernel").write_bytes(startable_kernel(next(unpacked.rglob("vmlinuz*")).read_bytes()))
    order = "".join(f"{name}.ko\n" for name in contents)
    (finished / "initramfs").write_bytes(
        cpio_archive(
            [
                ("bin", 0o40755, b""),
                ("modules", 0o40755, b""),
                ("bin/busybox", 0o100755, Path(busybox).read_bytes()),
                ("init", 0o100755, INIT.read_bytes()),
                ("modules.order", 0o100644, order.encode()),
                ("unchanged", 0o40755, b""),
                ("unchanged/rdma_rxe.ko", 0o100644, unchanged),
                *((f"modules/{name}.ko", 0o100644, data) for name, data in contents.items()),
            ]
        )
    )


def _load_order(available: dict[str, Path]) -> dict[str, Path]:
    """Return the wanted modules and what they depend on, each after its dependencies."""
    missing = INDISPENSABLE - available.keys()
    if missing:
        raise KernelUnavailableError(f"needs a kernel with the modules {', '.join(sorted(missing))}")
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name not in available:
            return
        for field in _module_bytes(available[name]).split(b"\0"):
            if field.startswith(b"depends="):
                for dependency in filter(None, field[len(b"depends=") :].decode().split(",")):
                    add(dependency.replace("-", "_"))
        ordered[name] = available[name]

    for name in MODULES:
        add(name)
    return ordered


def _module_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def startable_kernel(bzimage: bytes) -> bytes:
    """Return what QEMU starts soonest: the ELF inside a bzImage if this Python can unpack it, or the bzImage.

    The ELF carries a PVH note, so `-kernel` starts it at once; decompressing inside the guest costs seconds under
    TCG. Format: Documentation/arch/x86/boot.rst, "The real-mode kernel header".
    """
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[(setup_sectors + 1) * 512 + offset :][:length]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    return bzimage


def cpio_archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return a newc archive of (name, mode, content): early-userspace/buffer-format.rst of the kernel."""
    archive = bytearray()
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += b"\0" * (-len(archive) % 4) + content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


def with_roce_v1_gids(rdma_rxe: bytes) -> bytes:
    """rdma_rxe with RoCE v1 GIDs beside its v2 ones, as hardware HCAs have them.

    The GID cache (ib_core, roce_gid_mgmt.c) makes one entry for each RoCE version in the port's `core_cap_flags`.
    rxe reports RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP (0x803005), one immediate; RDMA_CORE_CAP_PROT_ROCE (0x200000) is
    added to it. So an IPv4 address stands at index 3, not 1, and index 2 is a real GID that carries no traffic.
    """
    old, new = struct.pack("<I", 0x803005), struct.pack("<I", 0xA03005)
    return _changed(rdma_rxe, "rdma_rxe", re.escape(old), lambda _: new)


def with_software_devices_movable(ib_core: bytes) -> bytes:
    """ib_core in which `rdma dev set DEVICE netns NAME` moves a software device too.

    ib_device_set_netns_put refuses drivers without `disassociate_ucontext` (`mov $-EOPNOTSUPP, %reg; je ...; cmpb
    $0, shared`); no software driver has it, and while no process has the device open it is not called. The jump
    becomes two nops.
    """
    pattern = rb"((?:\x41[\xb8-\xbf]|[\xb8-\xbf])\xa1\xff\xff\xff)\x74.(\x80\x3d)"
    return _changed(ib_core, "ib_core", pattern, lambda match: match[1] + b"\x90\x90" + match[2])


def _changed(module: bytes, name: str, pattern: bytes, replacement: Callable[[re.Match[bytes]], bytes]) -> bytes:
    """Return the module with the only match of `pattern` replaced, and without its signature.

    An unsigned module only taints the kernel; one whose signature is wrong is refused.
    """
    matches = list(re.finditer(pattern, module, re.DOTALL))
    if len(matches) != 1:
        raise KernelUnavailableError(
            f"needs a kernel whose {name} has one known instruction once, not {len(matches)} times"
        )
    start, end = matches[0].span()
    module = module[:start] + replacement(matches[0]) + module[end:]
    if module.endswith(MODULE_SIGNATURE_MARK):
        module = module[: -len(MODULE_SIGNATURE_MARK)]
        (signature_length,) = struct.unpack(">I", module[-4:])
        module = module[: -12 - signature_length]
    return module

"""One boot of the prepared kernel in QEMU: the host's root file system inside, one job, its results back.

The guest's root is the host's own, read-only over 9p with an overlay in the guest's memory above it, so the
interpreter, the checkout and the installed command are there under the same paths. /out is writable and shared.
Its network cards are ports of switches inside QEMU; nothing outside is reachable, and no privilege is needed.

The guest's clock counts the instructions of its CPU while that has work, and seconds while it has none. So a
second in the guest is the same amount of work on a quiet machine and on a loaded one, and no deadline in the
guest depends on who else is busy.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.kernel.image import BootableKernel

QEMU = "qemu-system-x86_64"
# 2**2 ns of the guest's time for an instruction: about the speed of emulation on a quiet core.
CLOCK = "shift=2,sleep=on"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# eth<N> of the guest is on switch NETWORK_OF_INTERFACE[N]. 0 and 1 are the two leaves of the routed fabric
# with one HCA and one router port each, 2 is for everything else.
NETWORK_OF_INTERFACE = (0, 1, 0, 1, 2, 2, 2)
FIRST_MAC_BYTE = 0x10


@dataclass(frozen=True)
class Run:
    """What one boot left: the job's exit status (None: it did not end), its log, the serial console, seconds."""

    status: int | None
    log: str
    console: str
    wall_s: float


def missing_part() -> str | None:
    """Return one plain sentence that names what this machine lacks for the layer, or None."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "needs Linux on x86-64: the guest runs the host's own programs"
    packages = {
        QEMU: "qemu-system-x86",
        "setpriv": "util-linux",
        "busybox": "busybox-static",
        "ip": "iproute2",
        "rdma": "iproute2",
        "ibv_rc_pingpong": "ibverbs-utils",
        "ib_write_bw": "perftest",
        "rping": "rdmacm-utils",
        "dpkg-deb": "dpkg",
        "apt-get": "apt",
    }
    path = os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATH))
    absent = sorted({package for program, package in packages.items() if shutil.which(program, path=path) is None})
    return f"needs the Debian packages {', '.join(absent)}" if absent else None


def real_interpreter() -> str:
    """Return the interpreter's own file: a version manager's shim before it costs seconds in the guest."""
    return os.path.realpath(sys.executable)


def boot(
    kernel: BootableKernel,
    job: Sequence[str],
    *,
    directory: Path,
    out: Path,
    deadline_s: float,
    lifetime_s: float,
) -> Run:
    """Boot, run `job` as root in the guest, in `directory` and with /out at `out`, power off.

    The guest ends itself after `lifetime_s` seconds of its own time, QEMU is ended after `deadline_s`
    seconds of this machine's, and with this process in any case.
    """
    (out / "job").write_text(f"cd {shlex.quote(str(directory))} && exec {shlex.join(job)}\n")
    accelerator = ["-accel", "tcg", "-icount", CLOCK]
    # A nested /dev/kvm may open and then interpret kernel code far slower than TCG does: never guessed.
    if os.environ.get("SGLANG_ROCE_TEST_KVM") == "1":
        accelerator = ["-accel", "kvm", "-cpu", "host"]
    path = f"{os.path.dirname(real_interpreter())}:{SYSTEM_PATH}"
    append = (
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr net.ifnames=0"
        f" guest.lifetime_s={int(lifetime_s)} guest.path={path}"
    )
    # One CPU: two are slower under TCG, and the tests share the machine with others.
    # A pytest that is killed cannot end it: the kernel does.
    command = ["setpriv", "--pdeathsig", "KILL", QEMU, *accelerator, "-smp", "1", "-m", "1024"]
    command += ["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"]
    command += ["-kernel", str(kernel.kernel), "-initrd", str(kernel.initramfs)]
    command += ["-append", append]
    for tag, shared, access in (("hostroot", "/", ",readonly=on"), ("out", str(out), "")):
        share = f"local,id={tag},path={shared.replace(',', ',,')},security_model=none,multidevs=remap"
        command += ["-fsdev", f"{share}{access}"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    for number, network in enumerate(NETWORK_OF_INTERFACE):
        command += ["-netdev", f"hubport,id=n{number},hubid={network}"]
        # Without a speed soft-RoCE reports 2.5 Gb/s; without `romfile=` QEMU looks for a PXE image.
        nic = f"virtio-net-pci,netdev=n{number},mac=52:54:00:00:00:{FIRST_MAC_BYTE + number:02x}"
        command += ["-device", f"{nic},speed=100000,duplex=full,romfile="]
    started = time.monotonic()
    with (out / "console").open("wb") as console:
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        try:
            qemu.wait(deadline_s)
        except subprocess.TimeoutExpired:
            console.write(f"\nended after {deadline_s:.0f} s\n".encode())
        finally:
            qemu.kill()
            qemu.wait()
    wall_s = time.monotonic() - started
    status_file = out / "job.rc"
    return Run(
        status=int(status_file.read_text()) if status_file.exists() else None,
        log=_text(out / "job.log"),
        console=_text(out / "console"),
        wall_s=wall_s,
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""

"""Add the launcher to an image that has SGLang, and change nothing else in it.

Run by the Dockerfile, with the interpreter that has SGLang:

    python3 docker/install.py wheel CHECKOUT      write CHECKOUT/wheels/sglang_roce_entry-*.whl
    python3 docker/install.py install CHECKOUT    install it, or fail with one sentence

Without CHECKOUT/wheels the second step builds the wheel itself, so that one line of a Dockerfile of
your own is enough; CHECKOUT may be read-only then. Wheels in CHECKOUT/dist are offered to pip in
both steps, so that PIP_NO_INDEX=1 builds offline. Every package of the image is pinned by a
constraint to the version it has: SGLang's own pins are exact, and a moved dependency would only be
noticed when a model is served.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

COMMAND = "sglang-roce-entry"
#: What pip can read as a version (PEP 440). Distributions have others, as "0.1.49ubuntu2" of Ubuntu's
#: python3-debian, and pip since 24.1 refuses a constraint on one.
PEP_440 = re.compile(
    r"v?([0-9]+!)?[0-9]+(\.[0-9]+)*"
    r"([-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?[0-9]*)?"
    r"(-[0-9]+|[-_.]?(post|rev|r)[-_.]?[0-9]*)?"
    r"([-_.]?dev[-_.]?[0-9]*)?"
    r"(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)
#: What NVIDIA's images start with. It sources entrypoint.d/*.sh in its own shell, then runs the command.
BASE_ENTRYPOINT = Path("/opt/nvidia/nvidia_entrypoint.sh")
#: A variable that a script exports, or a library path that it changes (which is exported already).
EXPORTED = re.compile(r"(?:\bexport[ \t]+|^[ \t]*(?=LD_LIBRARY_PATH=))([A-Z][A-Z0-9_]*)", re.MULTILINE)
#: Set where there is no GPU, and read by nothing here.
HARMLESS = {"NVIDIA_CPU_ONLY"}
#: An arbitrary user without rights: what a pod with runAsUser gets.
NOBODY = 65534


class RefusedBuildError(Exception):
    """The image cannot be built; its text is the one sentence for the user."""


def main(arguments: list[str]) -> int:
    """Run one step; return the exit status, with the reason of a failure on stderr."""
    steps = {"wheel": build_wheel, "install": install}
    if len(arguments) != 2 or arguments[0] not in steps:
        sys.stderr.write(__doc__ or "")
        return 2
    # A restrictive umask of the build would make the packages unreadable to other users.
    os.umask(0o022)
    try:
        require_sglang()
        require_writable_packages()
        steps[arguments[0]](Path(arguments[1]))
    except RefusedBuildError as refused:
        sys.stderr.write(f"docker/install.py: {refused}\n")
        return 1
    except subprocess.CalledProcessError as failure:
        sys.stderr.write(f"docker/install.py: {shlex.join(failure.cmd)} failed; its message is above\n")
        return 1
    return 0


def require_sglang() -> None:
    """Raise ``RefusedBuildError`` unless this interpreter finds SGLang and pip."""
    # Found, not imported: the import wants torch and a GPU driver. A directory that is merely
    # called sglang (a checkout in the working directory) is a namespace package without the module.
    spec = importlib.util.find_spec("sglang")
    places = (spec.submodule_search_locations if spec else None) or ()
    if not any(Path(place, "launch_server.py").is_file() for place in places):
        raise RefusedBuildError(
            f"SGLang is not installed for {sys.executable} in this base image; choose a BASE_IMAGE "
            "with SGLang, or name the interpreter that has it with --build-arg PYTHON=..."
        )
    if importlib.util.find_spec("pip") is None:
        raise RefusedBuildError(f"{sys.executable} has no pip in this base image")


def require_writable_packages() -> None:
    """Raise ``RefusedBuildError`` unless this user can install packages."""
    packages = sysconfig.get_path("purelib")
    if not os.access(packages, os.W_OK):
        raise RefusedBuildError(
            f"user {os.getuid()} of this base image cannot write {packages}; "
            "build from an image whose user is root"
        )


def build_wheel(checkout: Path) -> None:
    """Build the launcher's wheel into ``checkout/wheels``."""
    build_wheel_into(checkout / "wheels", checkout)


def build_wheel_into(folder: Path, checkout: Path) -> None:
    """Build the launcher's wheel into ``folder``; nothing is written to ``checkout``."""
    status = pip("wheel", "--no-deps", "--wheel-dir", str(folder), *offered(checkout), str(checkout))
    if status != 0:
        raise RefusedBuildError("the launcher's wheel could not be built; pip's message is above")


def install(checkout: Path) -> None:
    """Install the wheel beside SGLang; ``RefusedBuildError`` if anything else would change."""
    before = installed()
    if before.pop(canonical(COMMAND), None) is not None:
        # pip keeps an installed package of the same version, whatever is in the wheel.
        pip("uninstall", "--yes", COMMAND)
    with tempfile.TemporaryDirectory() as scratch:
        wheels = checkout / "wheels"
        if wheels.is_dir():
            require_own_wheel(wheels, checkout)
        else:
            wheels = Path(scratch, "wheels")
            build_wheel_into(wheels, checkout)
        constraints = Path(scratch, "constraints.txt")
        pins = (f"{name}=={before[name]}\n" for name in before if PEP_440.fullmatch(before[name]))
        constraints.write_text("".join(pins))
        arguments = [*offered(checkout), *(str(path) for path in wheels.glob("*.whl"))]
        if pip("install", "--constraint", str(constraints), *arguments) != 0:
            report = Path(scratch, "report.json")
            pip("install", "--quiet", "--dry-run", "--report", str(report), *arguments)
            raise RefusedBuildError(why_refused(before, report))
    after = installed()
    changed = [f"{name} {before[name]}" for name in before if after.get(name) != before[name]]
    if changed:
        raise RefusedBuildError(f"pip changed {', '.join(changed)} of the base image")
    require_command(after[canonical(COMMAND)])
    report_base_entrypoint(BASE_ENTRYPOINT)


def require_own_wheel(wheels: Path, checkout: Path) -> None:
    """Raise ``RefusedBuildError`` unless ``wheels`` holds the launcher of ``checkout`` and nothing else."""
    source = (checkout / "sglang_roce_entry/__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    found = sorted(path.name for path in wheels.glob("*.whl"))
    wanted = f"sglang_roce_entry-{version[1] if version else '?'}-"
    if len(found) != 1 or not found[0].startswith(wanted):
        raise RefusedBuildError(
            f"{wheels} holds {', '.join(found) or 'no wheel'}, and the checkout is {wanted.rstrip('-')}: "
            "delete that folder, it is left over from another build"
        )


def report_base_entrypoint(entrypoint: Path) -> None:
    """Say on stderr which variables the base image's ``entrypoint`` would have set, if it is there."""
    for script in sorted(entrypoint.with_name("entrypoint.d").glob("*.sh")):
        names = sorted(set(EXPORTED.findall(script.read_text(errors="replace"))) - HARMLESS)
        if names and entrypoint.is_file():
            sys.stderr.write(
                f"docker/install.py: note: this base image's entrypoint runs {script}, which sets "
                f"{', '.join(names)}; to keep that, put {entrypoint} before sglang-roce-entry: "
                "docker/README.md, The base image's entrypoint\n"
            )


def why_refused(before: dict[str, str], report: Path) -> str:
    """Return why pip refused, from what it would have done without the constraints."""
    # The report needs pip 22.2; without one pip's own message has to do.
    plan = json.loads(report.read_text())["install"] if report.exists() else []
    wanted = {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in plan}
    moves = [f"{name} {before[name]} to {version}" for name, version in wanted.items() if name in before]
    if not moves:
        return "pip could not install the launcher; its message is above"
    return (
        f"pip would change {', '.join(moves)} of the base image, and SGLang was tested with the "
        "versions that it has; choose a newer BASE_IMAGE"
    )


def require_command(version: str) -> None:
    """Raise ``RefusedBuildError`` unless every user finds and can run the launcher."""
    label = os.environ.get("VERSION", "")
    if label and label != version:
        raise RefusedBuildError(f"the launcher is version {version}, and the label VERSION is {label}")
    command = shutil.which(COMMAND)
    if command is None:
        raise RefusedBuildError(
            f"{COMMAND} was installed into {sysconfig.get_path('scripts')}, "
            "which is not in the PATH of this base image"
        )
    # Only root can become another user; an image that is built as its own user is tried as that.
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    try:
        check = subprocess.run([command, "--version"], check=False, cwd="/", **other)  # type: ignore[call-overload]  # noqa: S603
    except OSError as failure:
        raise RefusedBuildError(f"{command} cannot be run: {failure}") from failure
    if check.returncode != 0:
        raise RefusedBuildError(
            f"{command} does not run as uid {other.get('user', os.getuid())}; its message is above"
        )


def installed() -> dict[str, str]:
    """Return the version of every package that pip sees, editable ones too, by canonical name."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json"],
        check=True,
        stdout=subprocess.PIPE,
        env=pip_environment(),
    )
    return {canonical(item["name"]): item["version"] for item in json.loads(listing.stdout)}


def offered(checkout: Path) -> list[str]:
    """Return the option that offers the wheels of ``checkout/dist`` to pip, if there are any."""
    dist = checkout / "dist"
    return ["--find-links", str(dist)] if dist.is_dir() else []


def canonical(name: str) -> str:
    """Return a project name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments: str) -> int:
    """Run pip of this interpreter and return its exit status."""
    command = [sys.executable, "-m", "pip", *arguments]
    environment = pip_environment()
    return subprocess.run(command, check=False, env=environment).returncode  # noqa: S603 - own pip


def pip_environment() -> dict[str, str]:
    """Return the environment for pip: by variables, because an older pip ignores unknown ones."""
    return {
        **os.environ,
        "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668: this image is the environment
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

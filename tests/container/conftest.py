"""One enclosure, one base image and one built image for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.container.base_image import missing_packages, write_base
from tests.container.enclosure import NETAVARK, PROGRAMS, Enclosure, NoNamespacesError
from tests.container.pods import NETWORKS, NULL_DEVICE, make_node
from tests.layers import skip_or_fail
from tests.sources import CHECKOUT, copy_sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest depends on it there

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_IN = Path(__file__).with_name("stand_in")
BARE = "localhost/bare:1"
BASE = "localhost/sglang:1"
IMAGE = "localhost/sglang-roce-entry:1"
REVISION = "0123456789abcdef"
#: Older than what pip would choose, and enough for the launcher: it must stay.
KEPT = "tenacity==8.2.3"
#: Ubuntu's python3-debian: not a version by PEP 440.
ODD_VERSION = "0.1.49ubuntu2"

_PIP_WHEEL = (
    *("/usr/bin/python3", "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"),
    *("--prefer-binary", "--wheel-dir"),
)
#: As SGLang's image: the newest pip, an editable SGLang in the working directory, a command of its
#: own, and a package of the distribution whose version pip no longer reads.
_BASE_DOCKERFILE = """
FROM {bare}
COPY site /usr/local/lib/{python}/dist-packages/
COPY distribution /usr/lib/python3/dist-packages/
COPY stand_in /sgl-workspace/sglang/python
COPY wheels /wheels
WORKDIR /sgl-workspace/sglang
RUN ldconfig && PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore \\
    python3 -m pip install --no-index --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels
CMD ["bash"]
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of what a user builds from, with the wheels of an offline build in ``dist/``."""

    path: Path
    names: tuple[str, ...]

    @property
    def dockerfile(self) -> Path:
        """Return the shipped Dockerfile."""
        return self.path / "docker/Dockerfile"


@pytest.fixture(scope="session")
def enclosure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclosure]:
    """Return the namespaces with a container engine in them."""
    lacking = {package for program, package in PROGRAMS if shutil.which(program) is None}
    if not any(path.exists() for path in NETAVARK):
        lacking.add("netavark")
    if not lacking:
        lacking.update(missing_packages())
    if lacking:
        skip_or_fail("container", f"needs the Debian packages {' '.join(sorted(lacking))}")
    if os.geteuid() != 0:
        skip_or_fail("container", "needs root: podman runs in new mount and network namespaces")
    scratch = tmp_path_factory.mktemp("enclosure")
    try:
        make_node(scratch / "null", NULL_DEVICE)
        (scratch / "null").write_bytes(b"")
    except OSError as error:
        skip_or_fail("container", f"needs a temporary folder with device nodes: {error}")
    try:
        enclosure = Enclosure(scratch / "engine")
    except NoNamespacesError as error:
        skip_or_fail("container", f"needs to make mount, network and PID namespaces: {error}")
    yield enclosure
    enclosure.close()


@pytest.fixture(scope="session")
def networks(enclosure: Enclosure, base: str) -> Enclosure:
    """Return the enclosure with the pod network and the RDMA rail in it."""
    for name, options in NETWORKS.items():
        enclosure.succeed("podman", "network", "create", "--disable-dns", *options, name)
    # A bridge goes with its last container and takes the lowest MAC of its ports: every pod that
    # comes would cut the others off from their gateway until their neighbour entries expire.
    joined = (f"--network={name}" for name in NETWORKS)
    enclosure.start(base, ["infinity"], *joined, "--entrypoint=sleep")
    for number, name in enumerate(NETWORKS, start=1):
        template = "--format={{.NetworkInterface}}"
        bridge = enclosure.succeed("podman", "network", "inspect", template, name)
        enclosure.succeed("ip", "link", "set", bridge, "address", f"02:00:00:00:00:{number:02x}")
    return enclosure


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the build backend and every dependency, as pip is configured here."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    folder = tmp_path_factory.mktemp("wheels")
    # Debian's interpreter, because it becomes the base image's; some wheels are bound to a version.
    for requirements in (wanted, ["--no-deps", KEPT, "pip"]):
        done = subprocess.run(
            [*_PIP_WHEEL, str(folder), *requirements],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if done.returncode != 0:
            skip_or_fail("container", f"needs {' '.join(requirements)} from pip: {done.stderr}")
    return folder


@pytest.fixture(scope="session")
def base(enclosure: Enclosure, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an image with a stand-in for SGLang beside packages with SGLang's kind of versions."""
    folder = tmp_path_factory.mktemp("base")
    archive = folder / "base.tar"
    write_base(archive)
    enclosure.succeed("podman", "import", "--quiet", str(archive), BARE)
    archive.unlink()
    clean = shutil.ignore_patterns("__pycache__")
    shutil.copytree(STAND_IN, folder / "stand_in", ignore=clean)
    site = folder / "site"
    write_metadata(site, "sglang", "0.5.15")
    write_metadata(site, "torch", "2.11.0+cu130")
    (site / "__editable__.sglang-0.5.15.pth").write_text("/sgl-workspace/sglang/python\n")
    (site / "sglang-0.5.15.dist-info/direct_url.json").write_text(
        '{"url": "file:///sgl-workspace/sglang/python", "dir_info": {"editable": true}}'
    )
    write_metadata(folder / "distribution", "python-debian", ODD_VERSION)
    (folder / "wheels").mkdir()
    for pattern in ("tenacity-8.2.3-*.whl", "pip-*.whl"):
        for wheel in wheels.glob(pattern):
            shutil.copy(wheel, folder / "wheels")
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(_BASE_DOCKERFILE.format(bare=BARE, python=version))
    built = enclosure.build(folder, BASE, dockerfile)
    assert built.code == 0, built.log
    return BASE


def write_metadata(site: Path, name: str, version: str) -> None:
    """Write what pip and importlib.metadata need to list a package."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("stand-in\n")
    (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n")


@pytest.fixture(scope="session")
def checkout(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout prepared for an offline build, as docker/README.md describes it."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_sources(folder, "docker")
    shutil.copytree(wheels, folder / "dist")
    (folder / "credentials").write_text("must not be sent to the engine\n")
    return Checkout(folder, tuple(path.name for path in folder.iterdir()))


@pytest.fixture(scope="session")
def image(enclosure: Enclosure, base: str, checkout: Checkout) -> str:
    """Return the image that the shipped Dockerfile makes of the base image."""
    built = enclosure.build(
        checkout.path,
        IMAGE,
        checkout.dockerfile,
        f"--build-arg=BASE_IMAGE={base}",
        "--build-arg=PIP_NO_INDEX=1",
        f"--build-arg=REVISION={REVISION}",
    )
    assert built.code == 0, f"{built.out}\n{built.log}"
    return IMAGE

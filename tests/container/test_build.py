"""The shipped Dockerfile: what it puts into an image, and what it refuses to build."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING

import pytest

import sglang_roce_entry
from tests.container.conftest import BARE, ODD_VERSION, REVISION, Checkout, write_metadata
from tests.container.pods import SGLANG_ARGUMENTS, events
from tests.layers import skip_or_fail
from tests.sources import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.enclosure import Enclosure, Finished

pytestmark = pytest.mark.container

UPGRADED = ("-c", "import sglang_roce_entry; print(sglang_roce_entry.UPGRADED)")


def build(enclosure: Enclosure, checkout: Checkout, tag: str, base: str, *options: str) -> Finished:
    """Build the shipped Dockerfile offline on another base image."""
    arguments = (f"--build-arg=BASE_IMAGE={base}", "--build-arg=PIP_NO_INDEX=1", *options)
    return enclosure.build(checkout.path, tag, checkout.dockerfile, *arguments)


def derive(enclosure: Enclosure, base: str, tag: str, folder: Path, lines: str) -> None:
    """Make a base image of another one, the context of which is ``folder``."""
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(f"FROM {base}\n{lines}\n")
    built = enclosure.build(folder, tag, dockerfile)
    assert built.code == 0, built.log


def _packages(enclosure: Enclosure, image: str) -> dict[str, str]:
    listing = ("-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    done = enclosure.run_container(image, listing, "--entrypoint=python3")
    assert done.code == 0, done.log
    return {item["name"]: item["version"] for item in json.loads(done.out)}


def _labels(enclosure: Enclosure, image: str) -> dict[str, str]:
    text = enclosure.succeed("podman", "image", "inspect", "--format={{json .Labels}}", image)
    labels: dict[str, str] = json.loads(text)
    return labels


def test_no_package_of_the_base_image_is_changed(enclosure: Enclosure, base: str, image: str) -> None:
    before = _packages(enclosure, base)
    after = _packages(enclosure, image)
    assert before["tenacity"] == "8.2.3"  # pip would have chosen a newer one
    assert before["torch"] == "2.11.0+cu130"
    assert before["python-debian"] == ODD_VERSION
    assert int(before["pip"].split(".")[0]) >= 25  # a pip that reads no such version
    assert {name: after[name] for name in before} == before
    assert "sglang-roce-entry" in after


def test_a_base_image_with_an_old_pip(enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path) -> None:
    derive(
        enclosure, base, "localhost/old-pip:1", tmp_path, "RUN rm -r /usr/local/lib/python3*/dist-packages/pip*"
    )
    built = build(enclosure, checkout, "localhost/on-old-pip:1", "localhost/old-pip:1")
    assert built.code == 0, built.log
    before = _packages(enclosure, "localhost/old-pip:1")
    after = _packages(enclosure, "localhost/on-old-pip:1")
    assert before["pip"] != _packages(enclosure, base)["pip"]
    assert {name: after[name] for name in before} == before


def test_a_launcher_that_is_there_is_replaced(
    enclosure: Enclosure, image: str, checkout: Checkout, tmp_path: Path
) -> None:
    spoil = "RUN echo broken >$(python3 -c 'import sglang_roce_entry as entry; print(entry.__file__)')"
    derive(enclosure, image, "localhost/older:1", tmp_path, spoil)
    built = build(enclosure, checkout, "localhost/newer:1", "localhost/older:1")
    assert built.code == 0, built.log
    assert enclosure.run_container("localhost/older:1", ["--version"]).code != 0
    assert enclosure.run_container("localhost/newer:1", ["--version"]).code == 0


def test_the_interpreter_that_has_sglang_may_be_another(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    make = "RUN python3 -m venv --without-pip --system-site-packages /opt/venv"
    derive(enclosure, base, "localhost/venv:1", tmp_path, f"{make}\nENV PATH=/opt/venv/bin:$PATH")
    options = ("--build-arg=PYTHON=/opt/venv/bin/python",)
    built = build(enclosure, checkout, "localhost/in-venv:1", "localhost/venv:1", *options)
    assert built.code == 0, built.log
    done = enclosure.run_container("localhost/in-venv:1", SGLANG_ARGUMENTS, "--env=STAND_IN_MODE=exit")
    assert events(done.out)["started"]["executable"].startswith("/opt/venv/bin/"), done.log


def test_a_command_that_is_not_in_the_path_fails_with_a_sentence(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    make = "RUN python3 -m venv --without-pip --system-site-packages /opt/venv"
    derive(enclosure, base, "localhost/hidden:1", tmp_path, make)
    options = ("--build-arg=PYTHON=/opt/venv/bin/python3",)
    built = build(enclosure, checkout, "localhost/refused:1", "localhost/hidden:1", *options)
    assert built.code != 0
    assert "sglang-roce-entry was installed into /opt/venv/bin, which is not in the PATH" in built.log


def test_a_base_image_with_another_user_than_root_fails_with_a_sentence(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    derive(enclosure, base, "localhost/user:1", tmp_path, "USER 1000:1000")
    built = build(enclosure, checkout, "localhost/refused:1", "localhost/user:1")
    assert built.code != 0
    assert "docker/install.py: user 1000 of this base image cannot write /usr/local/lib/python3" in built.log


def _recipes() -> list[str]:
    """Return the Dockerfiles of docker/README.md."""
    return re.findall(r"```dockerfile\n(.*?)```", (CHECKOUT / "docker" / "README.md").read_text(), re.DOTALL)


def test_the_dockerfile_of_the_readme(enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path) -> None:
    """Files of one's own, the launcher from a second context, and never an old one after an upgrade."""
    default = _default_base(checkout)
    (recipe,) = [text for text in _recipes() if default in text]
    derive(enclosure, base, "localhost/offline:1", tmp_path, "ENV PIP_NO_INDEX=1")
    own = tmp_path / "own"
    own.mkdir()
    (own / "my-chat-template.jinja").write_text("{{ messages }}\n")
    (own / "Dockerfile").write_text(recipe.replace(default, "localhost/offline:1"))
    versions = {"localhost/own:1": checkout, "localhost/own:2": changed(checkout, tmp_path / "upgrade")}
    for number, (tag, launcher) in enumerate(versions.items()):
        options = (f"--build-context=launcher={launcher.path}", f"--build-arg=LAUNCHER={number} -")
        built = enclosure.build(own, tag, own / "Dockerfile", *options)
        assert built.code == 0, built.log
    assert sorted(path.name for path in checkout.path.iterdir()) == sorted(checkout.names)  # as it was
    done = enclosure.run_container("localhost/own:1", SGLANG_ARGUMENTS, "--env=STAND_IN_MODE=exit")
    assert events(done.out)["started"]["pid"] == 1, done.log
    before, after = _packages(enclosure, base), _packages(enclosure, "localhost/own:1")
    assert {name: after[name] for name in before} == before
    done = enclosure.run_container("localhost/own:2", UPGRADED, "--entrypoint=python3")
    assert done.out == "True\n", done.log
    done = enclosure.run_container("localhost/own:2", ["/templates/my-chat-template.jinja"], "--entrypoint=cat")
    assert done.out == "{{ messages }}\n"
    context = f"--build-context=launcher={checkout.path}"
    refused = enclosure.build(own, "localhost/refused:1", own / "Dockerfile", context)
    assert refused.code != 0
    assert "LAUNCHER: is missing, see docker/README.md" in refused.out + refused.log


def test_the_entrypoint_of_the_base_image_can_be_kept(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    """NVIDIA's: it sources its parts, which may set variables, and hands over by ``exec``."""
    nvidia = tmp_path / "nvidia"
    (nvidia / "entrypoint.d").mkdir(parents=True)
    (nvidia / "entrypoint.d/05-compat.sh").write_text("export LD_LIBRARY_PATH=/compat:${LD_LIBRARY_PATH}\n")
    script = nvidia / "nvidia_entrypoint.sh"
    script.write_text(
        '#!/bin/bash\necho banner\nfor part in ${0%/*}/entrypoint.d/*.sh; do source "$part"; done\nexec "$@"\n'
    )
    script.chmod(0o755)
    derive(enclosure, base, "localhost/ngc:1", tmp_path, 'COPY nvidia /opt/nvidia\nENTRYPOINT ["false"]')
    built = build(enclosure, checkout, "localhost/on-ngc:1", "localhost/ngc:1")
    assert built.code == 0, built.log
    assert "entrypoint.d/05-compat.sh, which sets LD_LIBRARY_PATH; to keep that" in built.out + built.log
    (recipe,) = [text for text in _recipes() if "nvidia_entrypoint" in text]
    own = tmp_path / "own"
    own.write_text(re.sub("FROM .*", "FROM localhost/on-ngc:1", recipe))
    assert enclosure.build(tmp_path, "localhost/kept:1", own).code == 0
    for image, path in (("localhost/on-ngc:1", "None"), ("localhost/kept:1", "/compat:")):
        asked = ("python3", "-c", "import os; print(os.getpid(), os.environ.get('LD_LIBRARY_PATH'))")
        done = enclosure.run_container(image, asked)
        assert done.out.splitlines()[-1] == f"1 {path}", done.log


def test_the_base_image_is_named_with_its_registry_and_its_version(checkout: Checkout) -> None:
    host, *path, name = _default_base(checkout).split("/")
    assert "." in host
    assert path
    _, _, tag = name.partition(":")
    assert re.fullmatch(r"v[0-9]+\.[0-9]+\.[0-9]+(@sha256:[0-9a-f]{64})?", tag)


def test_the_default_version_label_is_the_launchers(checkout: Checkout) -> None:
    default = re.search(r"^ARG VERSION=(.*)$", checkout.dockerfile.read_text(), re.MULTILINE)
    assert default is not None
    assert default[1] == sglang_roce_entry.__version__


def _default_base(checkout: Checkout) -> str:
    default = re.search(r"^ARG BASE_IMAGE=(.+)$", checkout.dockerfile.read_text(), re.MULTILINE)
    assert default is not None
    return default[1]


def test_the_image_has_an_entrypoint_and_no_command(enclosure: Enclosure, image: str) -> None:
    text = enclosure.succeed("podman", "image", "inspect", "--format={{json .Config}}", image)
    config = json.loads(text)
    assert config["Entrypoint"] == ["sglang-roce-entry"]
    assert not config.get("Cmd")  # the base image's "bash" would become an argument
    assert config.get("StopSignal", "SIGTERM") in {"SIGTERM", "15"}
    assert config["WorkingDir"] == "/sgl-workspace/sglang"
    assert not config.get("User")


def test_the_image_is_labelled(enclosure: Enclosure, image: str, base: str) -> None:
    labels = {
        key.removeprefix("org.opencontainers.image."): value for key, value in _labels(enclosure, image).items()
    }
    assert labels["title"] == "sglang-roce-entry"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == base
    assert labels["revision"] == REVISION


def test_a_rebuild_from_the_cache_gets_the_new_labels(
    enclosure: Enclosure, image: str, base: str, checkout: Checkout
) -> None:
    version = _packages(enclosure, image)["sglang-roce-entry"]
    built = build(enclosure, checkout, "localhost/rebuilt:1", base, "--build-arg=REVISION=fedcba9876543210")
    assert built.code == 0, built.log
    assert "Using cache" in built.out  # else this is no test of the cache
    labels = _labels(enclosure, "localhost/rebuilt:1")
    assert labels["org.opencontainers.image.revision"] == "fedcba9876543210"
    assert labels["org.opencontainers.image.version"] == version


def changed(checkout: Checkout, folder: Path) -> Checkout:
    """Return a copy of the checkout with another line in one source file, as after an upgrade."""
    shutil.copytree(checkout.path, folder)
    source = folder / "sglang_roce_entry/__init__.py"
    source.write_text(source.read_text() + "\nUPGRADED = True\n")
    return Checkout(folder, checkout.names)


def test_a_changed_launcher_is_never_taken_from_the_cache(
    enclosure: Enclosure, image: str, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    built = build(enclosure, changed(checkout, tmp_path / "upgrade"), "localhost/upgraded:1", base)
    assert built.code == 0, built.log
    assert "missing" not in built.log  # of build arguments
    done = enclosure.run_container("localhost/upgraded:1", UPGRADED, "--entrypoint=python3")
    assert done.out == "True\n", done.log


def test_only_installed_files_are_left_in_the_layers(enclosure: Enclosure, image: str, base: str) -> None:
    lines = enclosure.succeed("podman", "image", "diff", image, base).splitlines()
    assert lines
    changes = {path: kind for kind, path in (line.split(" ", 1) for line in lines)}
    assert "D" not in changes.values(), lines
    added = [path for path, kind in changes.items() if kind == "A"]
    # Some engines leave the empty directory on which the wheel was mounted.
    empty = {"/run/build"}
    expected = ("/usr/local/lib/", "/usr/local/bin/")
    assert [p for p in added if not p.startswith(expected) and p not in empty] == []
    # Directories whose time has changed, and nothing that has content.
    changed = {path for path, kind in changes.items() if kind == "C"}
    assert changed - {"/usr", "/usr/local", "/tmp", "/run"} <= set(_parents(added))


def _parents(paths: list[str]) -> Iterator[str]:
    for path in paths:
        yield from (str(parent) for parent in Path(path).parents)


def test_only_what_the_build_reads_is_sent_to_the_engine(
    enclosure: Enclosure, image: str, base: str, checkout: Checkout
) -> None:
    assert (checkout.path / "credentials").exists()
    built = build(enclosure, checkout, "localhost/wheel:1", base, "--target=wheel")
    assert built.code == 0, built.log
    done = enclosure.run_container("localhost/wheel:1", ["/build", "/build/docker"], "--entrypoint=ls")
    assert done.out.split() == [
        *("/build:", "LICENSE", "README.md", "dist", "docker", "pyproject.toml"),
        *("sglang_roce_entry", "wheels", "/build/docker:", "install.py"),
    ]


def test_the_installed_command_knows_its_version(enclosure: Enclosure, image: str) -> None:
    done = enclosure.run_container(image, ["--version"])
    assert done.code == 0, done.log
    assert _packages(enclosure, image)["sglang-roce-entry"] in done.out


def test_an_image_without_sglang_fails_with_a_sentence(
    enclosure: Enclosure, base: str, checkout: Checkout
) -> None:
    built = build(enclosure, checkout, "localhost/refused:1", BARE)
    assert built.code != 0
    assert "SGLang is not installed for /usr/bin/python3 in this base image" in built.log


def test_an_image_without_the_interpreter_fails_with_a_sentence(
    enclosure: Enclosure, base: str, checkout: Checkout
) -> None:
    built = build(enclosure, checkout, "localhost/refused:1", base, "--build-arg=PYTHON=python9")
    assert built.code != 0
    assert "the base image has no python9" in built.log


def test_a_wrong_version_label_fails_the_build(
    enclosure: Enclosure, image: str, base: str, checkout: Checkout
) -> None:
    built = build(enclosure, checkout, "localhost/refused:1", base, "--build-arg=VERSION=99.0")
    assert built.code != 0
    assert f"the launcher is version {sglang_roce_entry.__version__}, and the label VERSION is 99.0" in built.log


def test_pip_may_not_change_a_package_of_the_base_image(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    write_metadata(site, "psutil", "5.4.0")
    target = "/usr/local/lib/python3/dist-packages/"
    derive(enclosure, base, "localhost/old:1", tmp_path, f"COPY site {target}\nENV PYTHONPATH={target}")
    built = build(enclosure, checkout, "localhost/refused:1", "localhost/old:1")
    assert built.code != 0
    assert "pip would change psutil 5.4.0 to " in built.log


def test_pip_reads_the_configuration_that_comes_as_a_secret(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\ntimeout = soon\n")  # pip reports that it is not a number
    built = enclosure.build(
        checkout.path,
        "localhost/refused:1",
        checkout.dockerfile,
        f"--build-arg=BASE_IMAGE={base}",
        f"--secret=id=pip.conf,src={configuration}",
        "--no-cache",
    )
    assert built.code != 0
    assert "'soon'" in built.out + built.log, built.log


def test_a_secret_of_the_build_is_not_in_the_image(
    enclosure: Enclosure, base: str, checkout: Checkout, tmp_path: Path
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\n# user:hidden-token@mirror\n")
    secret = f"--secret=id=pip.conf,src={configuration}"
    built = build(enclosure, checkout, "localhost/secret:1", base, secret, "--no-cache")
    assert built.code == 0, built.log
    command = ("-rl", "--devices=skip", "hidden-token", "/etc", "/root", "/run", "/tmp", "/usr")
    searched = enclosure.run_container("localhost/secret:1", command, "--entrypoint=grep")
    assert (searched.code, searched.out) == (1, ""), searched.log  # 1: nothing found, 2: not searched
    history = enclosure.succeed("podman", "history", "--no-trunc", "localhost/secret:1")
    assert "install.py" in history
    assert "hidden-token" not in history


def _hadolint(dockerfile: Path) -> tuple[int, str]:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        skip_or_fail("container", "needs hadolint: pip install -r tests/container/requirements.txt")
    done = run([program, str(dockerfile)], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_hadolint_has_nothing_to_say() -> None:
    assert _hadolint(CHECKOUT / "docker/Dockerfile") == (0, "")


def test_hadolint_would_have_said_it(tmp_path: Path) -> None:
    text = (CHECKOUT / "docker/Dockerfile").read_text()
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace('["sglang-roce-entry"]', "sglang-roce-entry"))
    code, said = _hadolint(broken)
    assert code != 0
    assert "DL3025" in said  # not in exec form: SGLang would never get a signal

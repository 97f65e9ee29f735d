"""The cache of environments: a build that was interrupted, or is another's, is not taken for one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.layers import skip_or_fail
from tests.torch.environment import Recipe, Unavailable, is_finished, ready, site_packages

pytestmark = pytest.mark.torch

# Without requirements nothing is fetched: an empty virtual environment.
EMPTY = Recipe(sys.executable, "cp", ())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    try:
        ready(EMPTY, build=True, directory=directory)
    except Unavailable as reason:  # a Python without ensurepip
        skip_or_fail("torch", str(reason))
    return directory


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """Return a cache of one's own with a finished environment in it."""
    return Path(shutil.copytree(built, tmp_path / "cache", symlinks=True))


def test_built_once(cache: Path) -> None:
    environment = ready(EMPTY, build=False, directory=cache)
    assert site_packages(environment).is_dir()
    (environment / "kept").touch()
    assert ready(EMPTY, build=True, directory=cache) == environment
    assert (environment / "kept").exists()


def test_half_built_is_built_anew(cache: Path) -> None:
    environment = cache / EMPTY.tag
    (environment / "finished.json").unlink()
    shutil.rmtree(environment / "bin")
    (environment / "left over").touch()
    assert not is_finished(environment, EMPTY)
    assert ready(EMPTY, build=True, directory=cache) == environment
    assert is_finished(environment, EMPTY)
    assert not (environment / "left over").exists()


def test_anothers_recipe_is_not_finished(cache: Path) -> None:
    assert not is_finished(cache / EMPTY.tag, Recipe(sys.executable, "cp", ("torch==0.0.0",)))


def test_without_its_interpreter_it_is_not_finished(cache: Path) -> None:
    (cache / EMPTY.tag / "bin" / "python").unlink()
    assert not is_finished(cache / EMPTY.tag, EMPTY)


def test_not_built_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="SGLANG_ROCE_TESTS_REQUIRE=torch builds it"):
        ready(EMPTY, build=False, directory=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_failed_build_is_one_sentence_and_not_finished(tmp_path: Path) -> None:
    recipe = Recipe("/bin/false", "cp", ())
    with pytest.raises(Unavailable, match="failed: no message"):
        ready(recipe, build=True, directory=tmp_path)
    assert not is_finished(tmp_path / "cp", recipe)

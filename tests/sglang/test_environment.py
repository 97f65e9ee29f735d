"""The cache itself: what is half built is noticed, what is complete is left alone. Fetches nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.sglang import environment
from tests.sglang.environment import (
    COMPLETE,
    NotBuilt,
    cache_root,
    complete_part,
    find_python,
    folder_of,
    is_complete,
    parts,
    refuse_cuda,
    run,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.sglang


def test_a_half_built_part_is_built_again_from_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    seen = []

    def build(made: Path) -> None:
        seen.append(sorted(entry.name for entry in made.iterdir()))
        (made / f"file-{len(seen)}").touch()
        if len(seen) == 1:
            raise NotBuilt("the network went away")

    with pytest.raises(NotBuilt):
        complete_part(folder, build)
    assert (folder / "file-1").exists()
    for _ in range(2):
        complete_part(folder, build)
    assert seen == [[], []]
    assert sorted(entry.name for entry in folder.iterdir()) == [COMPLETE, "file-2"]


def test_one_missing_part_is_noticed(tmp_path: Path) -> None:
    for name in ["base", "model", *parts()]:
        assert not is_complete(tmp_path)
        complete_part(folder_of(tmp_path, name), lambda folder: None)
    assert is_complete(tmp_path)


def test_other_pins_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder_of(tmp_path, "base"), folder_of(tmp_path, "model")
    changed = tmp_path / "requirements.txt"
    changed.write_text("numpy==1.0\n", encoding="utf-8")
    monkeypatch.setattr(environment, "REQUIREMENTS", changed)
    after = folder_of(tmp_path, "base"), folder_of(tmp_path, "model")
    assert not set(before) & set(after)


def test_a_step_that_fails_says_its_last_line() -> None:
    with pytest.raises(NotBuilt, match=r"^trying failed: no such package$"):
        run([sys.executable, "-c", "import sys; sys.exit('first\\nno such package')"], "trying")


@pytest.mark.parametrize(("text", "refused"), [("cuda: str | None = None", False), ("cuda = '12.6'", True)])
def test_a_cuda_build_of_torch_is_refused(tmp_path: Path, text: str, refused: bool) -> None:
    version = tmp_path / "version.py"
    version.write_text(f"__version__ = '2'\n{text}\n", encoding="utf-8")
    if not refused:
        refuse_cuda(version)
        return
    with pytest.raises(NotBuilt, match="CUDA build"):
        refuse_cuda(version)


def test_the_cache_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_ROCE_TEST_CACHE", str(tmp_path))
    assert cache_root() == tmp_path / "sglang"


def test_every_requirement_is_pinned() -> None:
    """An unpinned one would change under us, and torch among them could become a CUDA build."""
    lines = environment.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    assert all("==" in line for line in lines if not line.startswith("#"))
    assert "torch" not in names
    assert len(names) == len(set(names)) > 50


def test_the_interpreter_is_asked_for_its_version() -> None:
    found = find_python()
    assert found is None or (sys.version_info[:2] == (3, 11)) <= (found == sys.executable)

"""Natural order of device names: ``mlx5_2`` before ``mlx5_10``."""

from __future__ import annotations

import re

NaturalKey = tuple[tuple[int, int, str], ...]


def natural_key(name: str) -> NaturalKey:
    """Return a sort key in which runs of digits compare as numbers."""
    runs = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(run), run) if "0" <= run[0] <= "9" else (1, 0, run) for run in runs)

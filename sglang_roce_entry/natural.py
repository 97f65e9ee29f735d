"""Natural order of device names, ``mlx5_2`` before ``mlx5_10``; numbers, which have a length, and runs of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

NaturalKey = tuple[tuple[int, int, str], ...]


#: The numbers of a node have no more digits, and Python refuses to read one of 4,301.
_MOST_DIGITS = 18


def whole_number(text: str | None) -> int | None:
    """Return the number that decimal digits are, ``None`` for any other text and for more than 18 digits."""
    digits = text is not None and len(text) <= _MOST_DIGITS and text.isascii() and text.isdecimal()
    return int(text) if text is not None and digits else None


def natural_key(name: str) -> NaturalKey:
    """Return a sort key in which runs of digits compare as numbers."""
    runs = re.findall(r"[0-9]+|[^0-9]+", name)
    # Longer runs of digits, which no device has, are behind all others.
    beyond = 10**_MOST_DIGITS
    return tuple(
        (0, beyond if (value := whole_number(run)) is None else value, run)
        if "0" <= run[0] <= "9"
        else (1, 0, run)
        for run in runs
    )


def runs_of(numbers: Iterable[int]) -> list[str]:
    """Return ``9-15`` and ``17`` of sorted numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [f"{first}-{last}" if last > first else f"{first}" for first, last in runs]

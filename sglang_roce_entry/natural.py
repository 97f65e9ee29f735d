"""Natural order of device names: ``mlx5_2`` before ``mlx5_10``."""

from __future__ import annotations

NaturalKey = tuple[tuple[int, int, str], ...]


def natural_key(name: str) -> NaturalKey:
    """Return a sort key in which runs of digits compare as numbers."""
    parts: list[tuple[int, int, str]] = []
    start = 0
    while start < len(name):
        end = start + 1
        digits = _is_digit(name[start])
        while end < len(name) and _is_digit(name[end]) == digits:
            end += 1
        run = name[start:end]
        parts.append((0, int(run), run) if digits else (1, 0, run))
        start = end
    return tuple(parts)


def _is_digit(character: str) -> bool:
    return "0" <= character <= "9"

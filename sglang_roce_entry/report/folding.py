"""Equal things in one line: the names of many ports as one, and texts that differ in nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sglang_roce_entry.natural import natural_key, runs_of
from sglang_roce_entry.problems import Problem

#: A word without the punctuation behind it, or one character between words.
_WORD = re.compile(r"[^\s,;()'\":.]+(?:[:.]+[^\s,;()'\":.]+)*|.", re.DOTALL)
#: A name with a number in it (mlx5_0:1, ens1np0, /dev/infiniband/uverbs2). A number alone is not one, nor is
#: IPv4, v2 or x16.
_NAME = re.compile(r"[A-Za-z/](?=.*\d)[\w./:-]*")
_NUMBER = re.compile(r"(IPv|v|x)\d+")
_ADDRESS = re.compile(r"(?=.*::|(?:.*[.:]){3})[0-9a-fA-F.:/]+")
#: The number of a device, before the one of its port; and the first to fifth number of any name.
_OF_DEVICE = re.compile(r"([^:]*?)(\d+)((?::.*)?)")
_PLACES = tuple(re.compile(rf"(\D*(?:\d+\D+){{{place}}})(\d+)(.*)") for place in range(5))
#: Of the names inside a sentence, all are listed once; further ones up to this many.
_LISTED = 3


def folded_names(labels: Iterable[str]) -> list[str]:
    """Return the names with the numbers of their devices as one: ``mlx5_[0-3]:1`` for four ports."""
    return _folded(sorted(dict.fromkeys(labels), key=natural_key), _OF_DEVICE)


def _folded(names: Sequence[str], number: re.Pattern[str]) -> list[str]:
    groups: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        parts = number.fullmatch(name)
        # Hexadecimal groups and leading zeros do not count up as numbers do.
        if parts is None or name.count(":") > 1 or (parts[2][0] == "0" and parts[2] != "0") or len(parts[2]) > 18:
            plain.append(name)
        else:
            groups.setdefault((parts[1], parts[3]), []).append(int(parts[2]))
    for (before, behind), numbers in groups.items():
        texts = runs_of(numbers)
        plain.append(f"{before}[{','.join(texts)}]{behind}" if len(numbers) > 1 else f"{before}{texts[0]}{behind}")
    return plain


def shortest_names(names: Iterable[str]) -> list[str]:
    """Return the names with that number as one which leaves the fewest: ``rdmap[80-87]s0:1``."""
    ordered = sorted(dict.fromkeys(names), key=natural_key)
    return min((_folded(ordered, number) for number in (_OF_DEVICE, *_PLACES)), key=len)


def names_by_text(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return each text of ``(name, text)`` once, behind all names that have it: ``("mlx5_[0-3]", text)``."""
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(text, []).append(name)
    return [(",".join(shortest_names(names)), text) for text, names in found.items()]


def folded_rows(rows: Iterable[tuple[str, ...]]) -> list[tuple[int, tuple[str, ...]]]:
    """Return each group of like rows as one, with how many they are, in the order of their first.

    A row is a name and any number of texts. Rows are alike if their texts differ only in names with a
    number and in addresses: that is what belongs to the port or device which the row is about. A plain
    number (an index, a rate) that differs keeps them apart.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[tuple[str, ...]]] = {}
    for row in rows:
        shape = tuple(tuple(_shape(word) for word in _WORD.findall(text)) for text in row[1:])
        groups.setdefault(shape, []).append(row)
    return [(len(alike), _merged(alike)) for alike in groups.values()]


def folded_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems with each group of like ones as one."""
    kept: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kept.setdefault((problem.severity, problem.code), []).append(problem)
    found: list[Problem] = []
    for alike in kept.values():
        rows = folded_rows(("", one.message, one.hint) for one in alike) if len(alike) > 1 else ()
        found += [replace(alike[0], message=message, hint=hint) for _, (_, message, hint) in rows] or alike
    return found


def _shape(word: str) -> str:
    if _ADDRESS.fullmatch(word):
        return "@"
    if _NAME.fullmatch(word) and not _NUMBER.fullmatch(word):
        return re.sub(r"\d+", "#", word)
    return word


def _merged(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if len(rows) == 1:
        return rows[0]
    columns = list(zip(*rows, strict=True))
    listed = bool(rows[0][0])
    merged = [",".join(shortest_names(columns[0]))]
    for texts in columns[1:]:
        words = []
        for alike in zip(*(_WORD.findall(text) for text in texts), strict=True):
            names = shortest_names(alike) if len(set(alike)) > 1 else [alike[0]]
            short = names if len(names) <= _LISTED or not listed else [f"{names[0]} ... {names[-1]}"]
            listed = listed or len(set(alike)) > 1
            words.append(", ".join(short))
        merged.append("".join(words))
    return tuple(merged)

"""What README.md here shows of the `startup` and `against` benchmarks: one table, one chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.benchmarks.chart import Line, line_chart

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "python -m tests.benchmarks startup against --figures FOLDER"
NEEDED = ("startup", "against")
_LINES = (
    ("block_ms", "shell block of a manifest", "#cf222e"),
    ("show_gids_ms", "loop like show_gids", "#9a6700"),
    ("start_ms", "sglang-roce-entry", "#0969da"),
)


def write_figures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `startup.md` and `startup.svg` into ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / "startup.md": _table(report), folder / "startup.svg": _chart(report)}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)


def _chart(report: dict[str, Any]) -> str:
    rows = report["benchmarks"]["against"]["rows"]
    lines = [Line(name, colour, [(row["gids"], row[key] / 1000) for row in rows]) for key, name, colour in _LINES]
    bare = [(row["gids"], row["bare_ms"] / 1000) for row in rows]
    lines.append(Line("python3 -c pass", "#57606a", bare, dashed=True))
    return line_chart("Before SGLang starts", "GID slots of the node (256 per HCA)", "seconds", lines)


def _table(report: dict[str, Any]) -> str:
    measured, machine = report["benchmarks"], report["machine"]
    shell = {(row["hcas"], row["slots"]): row for row in measured["against"]["rows"]}
    lines = [
        "| HCAs × GID slots | start to exec | in interpreter starts | peak memory, in interpreters | loop like `show_gids` | shell block |",
        "|---|---|---|---|---|---|",
    ]
    for row in measured["startup"]["rows"]:
        beside = shell.get((row["hcas"], row["slots"]))
        told = [_seconds(beside[f"{name}_ms"]) if beside else "" for name in ("show_gids", "block")]
        lines.append(
            f"| {row['hcas']} × {row['slots']:,} | {row['start_ms']:.0f} ms | {row['starts']:.1f} | {row['memory']:.1f} | "
            + " | ".join(told)
            + " |"
        )
    slot = measured["startup"].get("empty_slot_us")
    each = f"An empty slot costs {slot['start']:.1f} µs. " if slot else ""
    lines += [
        "",
        (
            f"{each}{machine['date']}, {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
            f"Python {machine['python']}, load {machine['load']}; medians of one run:"
        ),
        "",
        f"    {COMMAND}",
    ]
    return "\n".join(lines) + "\n"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s"

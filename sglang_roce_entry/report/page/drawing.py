"""The drawing of a node: GPUs on the left, ports on the right, in their NUMA domains and PCIe switches.

Nothing wraps in SVG, so that each text is laid out here, in the cells of a font whose letters are equally wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import east_asian_width
from xml.etree.ElementTree import Element

from sglang_roce_entry.report.folding import folded_rows
from sglang_roce_entry.report.page.markup import element, readable
from sglang_roce_entry.report.page.places import Domain, Switch, domains_of

#: The height of a line of text, the space between a frame and what is in it, and between two boxes.
_LINE, _INSET, _BETWEEN = 16, 8, 6
#: Of the reason why a port is left out, the drawing shows this many lines; the table below it has all.
_MOST_LINES = 3
#: Ports of one switch that are left out for one cause are one box, if that saves so many boxes.
_MANY = 3
#: The widest letter of the fonts that the style names, in their size.
_LETTER = 0.612


@dataclass(frozen=True, slots=True)
class Paper:
    """The sizes of one drawing, in pixels: its width, that of a GPU and of a port, and of the letters."""

    name: str
    width: int
    gpu: int
    port: int
    font: int

    def cells(self, width: float) -> int:
        """Return how many letters fit into a box of this width."""
        return int((width - 2 * _INSET) / (self.font * _LETTER))


PAPERS = (Paper("wide", 760, 196, 356, 12), Paper("narrow", 360, 98, 186, 11))


#: The HCAs of each GPU, and how near each is.
Nearest = Mapping[int, Sequence[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text in a box, with another at its right end."""

    text: str
    kind: str = "plain"
    right: str = ""


@dataclass(slots=True)
class Sheet:
    """What has been drawn so far: frames below lines below boxes."""

    paper: Paper
    distances: Mapping[int, str]  # of each GPU to its HCAs
    frames: list[Element] = field(default_factory=list)
    boxes: list[Element] = field(default_factory=list)
    gpus: dict[int, tuple[float, float]] = field(default_factory=dict)  # where lines begin
    ports: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # where they end, by device


def drawing(shown: Mapping[str, Any], paper: Paper) -> Element:
    """Return the node of a dry run's document as SVG."""
    classes = {(pair["gpu"], pair["device"]): pair["class"] for pair in shown["affinity"]}
    nearest = {
        gpu["index"]: [(device, classes.get((gpu["index"], device), "?")) for device in gpu["devices"]]
        for gpu in shown["gpus"]
    }
    sheet = Sheet(paper, {gpu: "/".join(dict.fromkeys(one for _, one in those)) for gpu, those in nearest.items()})
    below = 0.0
    domains = domains_of(shown)
    for domain in domains:
        below = _draw_domain(sheet, domain, below, alone=len(domains) == 1) + _BETWEEN + 2
    node = shown["node"]
    if node is not None:
        below = _draw_control(sheet, node["control"], below) + _BETWEEN
    height = max(below - _BETWEEN, 1) + 1
    return element(
        "svg",
        element("desc", "; ".join(_sentences(nearest)) or "no GPU is drawn"),
        *sheet.frames,
        *_lines(nearest, sheet),
        *sheet.boxes,
        class_=f"drawing {paper.name}",
        viewBox=f"0 0 {paper.width} {height:g}",
        width=paper.width,
        height=height,
        role="img",
        aria_label="the node: GPUs, HCA ports and the control interface",
    )


def _sentences(nearest: Nearest) -> Iterable[str]:
    for gpu, those in nearest.items():
        yield f"GPU {gpu}: " + ", ".join(f"{device} ({distance})" for device, distance in those)


# ----------------------------------------------------------------------------------------- frames and boxes


def _draw_domain(sheet: Sheet, domain: Domain, top: float, *, alone: bool) -> float:
    """Draw one NUMA domain and return where it ends."""
    unknown = "NUMA nodes are not known" if alone else "NUMA node not known"
    title = f"NUMA node {domain.number}" if domain.number is not None else unknown
    inside = top + _INSET + _LINE + 2
    for switch in domain.switches:
        inside = _draw_switch(sheet, switch, inside) + _BETWEEN
    bottom = inside - _BETWEEN + _INSET
    _frame(sheet, "domain", (0, top, sheet.paper.width, bottom - top), title)
    return bottom


def _draw_switch(sheet: Sheet, switch: Switch, top: float) -> float:
    paper = sheet.paper
    left, right = 2 * _INSET, paper.width - 2 * _INSET
    gpus = [_gpu_lines(gpu, sheet.distances.get(gpu["index"], ""), paper) for gpu in switch.gpus]
    used = [port for port in switch.ports if port["used"]]
    ports = [_used_lines(port, paper) for port in used]
    ports += _unused_lines([port for port in switch.ports if not port["used"]], paper)
    inside = top + _INSET + _LINE
    height = max(_column_height(gpus), _column_height(ports))
    bottom = inside + height + _INSET
    frame = (_INSET, top, paper.width - 2 * _INSET, bottom - top)
    # Frames are drawn from the outside in.
    _frame(sheet, "switch", frame, switch.title or "PCI place not known")
    y = inside + (height - _column_height(gpus)) / 2
    for gpu, lines in zip(switch.gpus, gpus, strict=True):
        y = _box(sheet, "gpu", (left, y, paper.gpu), lines)
        sheet.gpus[gpu["index"]] = (left + paper.gpu, y - _height(lines) / 2)
        y += _BETWEEN
    y = inside + (height - _column_height(ports)) / 2
    for place, lines in enumerate(ports):
        kind = "used" if place < len(used) else "unused"
        y = _box(sheet, kind, (right - paper.port, y, paper.port), lines)
        if kind == "used":
            end = (right - paper.port, y - _height(lines) / 2)
            sheet.ports.setdefault(used[place]["device"], []).append(end)
        y += _BETWEEN
    return bottom


def _draw_control(sheet: Sheet, control: Mapping[str, Any], top: float) -> float:
    paper = sheet.paper
    if control["interface"] is None:
        line = Line("control interface", "name", "none set")
    else:
        line = Line(
            "control interface", "name", " ".join(filter(None, (control["interface"], control["address"])))
        )
    lines = _laid_out([line], paper.cells(paper.width))
    kind = "control" if control["interface"] is not None else "unused"
    return _box(sheet, kind, (0, top, paper.width), lines)


def _gpu_lines(gpu: Mapping[str, Any], distance: str, paper: Paper) -> list[Line]:
    name, place = f"GPU {gpu['index']}", gpu["pci_address"] or ""
    if paper is not PAPERS[0]:
        return _laid_out([Line(name, "name", distance), *([Line(place)] if place else [])], paper.cells(paper.gpu))
    # AMD's driver has no name for a GPU, but a number.
    model = gpu["model"] if gpu["model"] and not gpu["model"].isdecimal() else ""
    return _laid_out([Line(name, "name", model), Line(place, "plain", distance)], paper.cells(paper.gpu))


def _used_lines(port: Mapping[str, Any], paper: Paper) -> list[Line]:
    cells = paper.cells(paper.port)
    head = " · ".join(filter(None, (f"rail {port['rail']}", _rate(port))))
    facts = [port["netdev"], port["gid"]]
    facts.append(f"GID index {port['gid_index']}" if port["gid_index"] is not None else None)
    facts.append(f"MTU {port['mtu']}" if port["mtu"] is not None else None)
    pieces = folded(filter(None, facts), cells, _MOST_LINES + 1, " · ")
    return _laid_out([Line(_label(port), "name", head), *(Line(text) for text in pieces)], cells)


def _unused_lines(ports: Sequence[Mapping[str, Any]], paper: Paper) -> list[list[Line]]:
    """Return the boxes of ports that are left out: one for all of one cause, where these are many."""
    rows = [(_label(port), port["reason"] or "", port["detail"]) for port in ports]
    folded_up = folded_rows(rows)
    if len(ports) - len(folded_up) < _MANY:
        return [_unused(row, [port["netdev"], _rate(port)], paper) for row, port in zip(rows, ports, strict=True)]
    return [_unused(row, [f"{count} ports" if count > 1 else None], paper) for count, row in folded_up]


def _unused(row: tuple[str, ...], facts: Iterable[str | None], paper: Paper) -> list[Line]:
    cells = paper.cells(paper.port)
    name, reason, detail = row
    about = folded(filter(None, facts), cells, 2, " · ")
    sentence = folded(detail.split(), cells, _MOST_LINES)
    lines = [Line(name, "name", "left out"), *(Line(text) for text in (*about, reason, *sentence))]
    return _laid_out(lines, cells)


def _rate(port: Mapping[str, Any]) -> str | None:
    return f"{port['rate_gbps']:g} Gb/s" if port["rate_gbps"] is not None else None


def _label(port: Mapping[str, Any]) -> str:
    return f"{port['device']}:{port['port']}"


def _laid_out(lines: Iterable[Line], cells: int) -> list[Line]:
    """Return lines that fit: too long a text is cut, and what stands at its right goes below it."""
    made = []
    for line in lines:
        text, right = (next(iter(folded([one], cells, 1)), "") for one in (line.text, line.right))
        if right and cells_of(text) + cells_of(right) + 2 > cells:
            made += [Line(text, line.kind), Line(right)]
        else:
            made.append(Line(text, line.kind, right))
    return made


def _height(lines: Sequence[Line]) -> float:
    return _LINE * len(lines) + _INSET


def _column_height(boxes: Sequence[Sequence[Line]]) -> float:
    return sum(_height(lines) for lines in boxes) + _BETWEEN * max(len(boxes) - 1, 0)


def _frame(sheet: Sheet, kind: str, place: tuple[float, float, float, float], title: str) -> None:
    x, y, width, height = place
    frame = element("rect", class_=kind, x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, rx=6)
    sheet.frames.insert(0 if kind == "domain" else len(sheet.frames), frame)
    (line,) = _laid_out([Line(title, "title")], sheet.paper.cells(width))
    # A line may come by here: it passes behind the title.
    plate = cells_of(line.text) * sheet.paper.font * _LETTER
    sheet.boxes += [
        element("rect", class_=f"plate {kind}", x=x + _INSET, y=y + 4, width=plate, height=_LINE - 1),
        _text(x + _INSET, y + _LINE, line, sheet.paper),
    ]


def _box(sheet: Sheet, kind: str, place: tuple[float, float, float], lines: Sequence[Line]) -> float:
    """Draw a box with its lines and return where it ends."""
    x, y, width = place
    height = _height(lines)
    made = [
        element("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=height - 1, rx=4),
    ]
    for number, line in enumerate(lines, 1):
        base = y + _LINE * number
        made.append(_text(x + _INSET, base, line, sheet.paper))
        if line.right:
            made.append(_text(x + width - _INSET, base, Line(line.right, "right"), sheet.paper))
    sheet.boxes.append(element("g", *made, class_=f"box {kind}"))
    return y + height


def _text(x: float, y: float, line: Line, paper: Paper) -> Element:
    # Other letters than ASCII come from other fonts: they are made to fit the cells that were counted.
    length = None if line.text.isascii() else cells_of(line.text) * paper.font * _LETTER
    return element(
        "text",
        line.text,
        x=x,
        y=y,
        font_size=paper.font,
        class_=line.kind,
        textLength=length,
        lengthAdjust="spacingAndGlyphs" if length is not None else None,
    )


# ----------------------------------------------------------------------------------------- lines and letters


def _lines(nearest: Nearest, sheet: Sheet) -> Iterable[Element]:
    """Yield a line from each GPU that is drawn to each port of its HCAs."""
    for gpu, (x, y) in sheet.gpus.items():
        for device, distance in nearest.get(gpu, []):
            for to_x, to_y in sheet.ports.get(device, []):
                middle = (x + to_x) / 2
                way = f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
                title = element("title", f"GPU {gpu} to {device}: {distance}")
                yield element("path", title, class_=f"line {kind_of(distance)}", d=way)


def kind_of(distance: str) -> str:
    """Return how a line of this class looks: within a NUMA domain, across domains, or not known."""
    return {"SYS": "across", "?": "unsure"}.get(distance, "near")


def folded(words: Iterable[str], cells: int, most: int, joint: str = " ") -> list[str]:
    """Return words in lines of so many cells; ``most`` lines, the last with dots where there would be more."""
    lines: list[str] = []
    for word in words:
        rest = readable(word)
        if lines and cells_of(lines[-1]) + len(joint) + cells_of(rest) <= cells:
            lines[-1] += joint + rest
            continue
        while rest and len(lines) <= most:
            lines.append(_cut(rest, cells))
            rest = rest[len(lines[-1]) :]
    if len(lines) > most:
        lines[most - 1 :] = [_cut(lines[most - 1], cells - 1) + "…"]
    return lines


def _cut(text: str, cells: int) -> str:
    """Return as much of ``text`` as fits, one letter at least."""
    end = min(len(text), max(cells, 1))
    while end > 1 and cells_of(text[:end]) > cells:
        end -= 1
    return text[:end]


def cells_of(text: str) -> int:
    """Return how many cells a text takes: two for each wide letter of East Asia."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(one) in "WF" else 1 for one in text)

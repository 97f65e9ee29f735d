"""The page of one node: the drawing, what is wrong, what was decided and why, and the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from sglang_roce_entry.problems import OK, Problem, errors_first
from sglang_roce_entry.report.folding import folded_problems, folded_rows, shortest_names
from sglang_roce_entry.report.page.drawing import PAPERS, drawing, kind_of
from sglang_roce_entry.report.page.markup import Inside, as_page, element
from sglang_roce_entry.report.shell import as_words

_LINES = {
    "near": "a GPU and its nearest HCA",
    "across": "a GPU and its nearest HCA, across NUMA domains",
    "unsure": "a GPU and its HCA by order: how near is not known",
}


def node_page(shown: Mapping[str, Any]) -> str:
    """Return the page of a dry run's document."""
    name, about = _who(shown["identity"])
    body: list[Inside] = [
        element("h1", name),
        element("p", element("bdi", about), class_="soft") if about else None,
        _verdict(shown),
        *problem_list(shown["problems"]),
        element(
            "div",
            element("figure", *(drawing(shown, paper) for paper in PAPERS)),
            element("dl", *_facts(shown)),
            class_="look",
        ),
        *_left_out(shown["ports"]),
        element("h2", "Environment"),
        _environment(shown["environment"]),
        element("h2", "Command"),
        _command(shown["argv"]),
        element("footer", "fingerprint ", element("bdi", shown["fingerprint"])) if shown["fingerprint"] else None,
    ]
    return as_page(f"{name}: {about}" if about else name, body)


def _who(identity: Mapping[str, Any] | None) -> tuple[str, str]:
    if identity is None:
        return "A pod that does not know its place", ""
    size, index = identity["size"], identity["index"]
    if size == 1:
        return "One node", ""
    name = f"Leader of {size} nodes" if index == 0 else f"Worker {index} of {size} nodes"
    return name, f"{'' if index == 0 else 'leader '}{identity['leader']} (from {identity['source']})"


def _verdict(shown: Mapping[str, Any]) -> Element:
    if shown["exit_code"] != OK:
        first = next((one["code"] for one in shown["problems"] if one["severity"] == "error"), "?")
        text = f"A launch would end with exit code {shown['exit_code']} ({first})"
        return element("p", text, class_="verdict error")
    with_arguments = "With SGLang's arguments a launch" if shown["argv"] is None else "A launch"
    return element("p", f"{with_arguments} would go ahead", class_="verdict")


def problem_list(problems: Iterable[Mapping[str, Any]]) -> list[Inside]:
    """Return the problems of a document, errors first, like ones as one; nothing where there are none."""
    kept = (Problem(*(one[key] for key in ("severity", "code", "message", "hint"))) for one in problems)
    found = folded_problems(errors_first(kept))
    listed = [
        element(
            "li",
            element("p", element("span", one.code, class_="code mono"), " ", element("bdi", one.message)),
            element("p", "What to do: ", element("bdi", one.hint)) if one.hint else None,
            class_=one.severity,
        )
        for one in found
    ]
    return [element("ul", *listed, class_="problems")] if listed else []


# ----------------------------------------------------------------------------------------- beside the drawing


def _facts(shown: Mapping[str, Any]) -> Iterable[Element]:
    node = shown["node"]
    if node is not None:
        used = sum(port["used"] for port in shown["ports"])
        yield from _fact("RDMA", f"{node['rdma']}; {used} of {len(shown['ports'])} ports used", *node["notes"])
        control = node["control"]
        name = " ".join(filter(None, (control["interface"], control["address"])))
        yield from _fact("Control interface", name or "none set", control["reason"])
        count = node["gpu_count"]
        yield from _fact("GPUs", f"{count} ({node['gpu_count_source']})" if count is not None else "not known")
        sglang, nccl = node["versions"]["sglang"], ", ".join(node["versions"]["nccl"] or ())
        releases = [f"{name} {release}" for name, release in (("SGLang", sglang), ("NCCL", nccl)) if release]
        yield from _fact("Releases", "; ".join(releases))
    wait = shown["wait"]
    if wait is not None and wait["deadline_s"]:
        what = "to resolve to this pod, and the group" if wait["for"] == "own_name" else "and the group"
        yield from _fact("Waits for", f"{wait['host']} {what}, at most {wait['deadline_s']:g} s")
    yield element("dt", "Legend")
    yield element("dd", element("ul", *_legend(shown), class_="legend"))
    unknown = list(_unknown(shown))
    if unknown:
        yield element("dt", "Not known")
        yield element("dd", element("ul", *(element("li", element("bdi", text)) for text in unknown)))


def _fact(title: str, *texts: str) -> Iterable[Element]:
    """Yield a title with what is known of it, the first text foremost; nothing where nothing is."""
    known = [text for text in texts if text]
    if not known:
        return
    yield element("dt", title)
    for place, text in enumerate(known):
        yield element("dd", element("bdi", text), class_="soft" if place else None)


def _legend(shown: Mapping[str, Any]) -> Iterable[Element]:
    boxes = {"gpu": "a GPU", "used": "a port that NCCL will use", "unused": "a port that is left out, and why"}
    node = shown["node"] or {"gpus": [], "control": {"interface": None}}
    uses = {port["used"] for port in shown["ports"]}
    present = [("gpu", bool(node["gpus"])), ("used", True in uses), ("unused", False in uses)]
    for kind in (kind for kind, there in present if there):
        swatch = element("g", element("rect", x=1, y=1, width=26, height=12, rx=3), class_=f"box {kind}")
        yield _legend_line(swatch, boxes[kind])
    classes = {pair["class"] for pair in shown["affinity"] if pair["assigned"]}
    kinds = {kind_of(one) for one in classes}
    for kind in (kind for kind in _LINES if kind in kinds):
        yield _legend_line(element("path", class_=f"line {kind}", d="M1 7H27"), _LINES[kind])


def _legend_line(swatch: Element, text: str) -> Element:
    svg = element("svg", swatch, class_="drawing", width=28, height=14, viewBox="0 0 28 14", aria_hidden="true")
    return element("li", svg, element("span", text))


def _unknown(shown: Mapping[str, Any]) -> Iterable[str]:
    """Yield what the drawing leaves out because it is not known, a line for each kind of fact."""
    node = shown["node"]
    if node is None:
        yield "anything of the node: it could not be looked at"
        return
    if shown["identity"] is None:
        yield "who this pod is in its group"
    if not node["gpus"] and node["gpu_count"] != 0:
        yield "where the GPUs sit, and so which HCA is nearest to each"
    used = [port for port in shown["ports"] if port["used"]]
    devices = [(f"GPU {gpu['index']}", gpu) for gpu in node["gpus"]]
    devices += [(hca["device"], hca) for hca in node["hcas"]]
    labels = [(f"{port['device']}:{port['port']}", port) for port in used]
    facts = (
        ("the NUMA node", "numa_node", devices),
        ("the place on PCI", "path", devices),
        ("the rate", "rate_gbps", labels),
        ("the interface", "netdev", labels),
        ("the MTU", "mtu", labels),
        ("the GID index (NCCL chooses it)", "gid_index", labels),
    )
    for what, key, those in facts:
        names = [name for name, one in those if one[key] is None]
        if names:
            yield f"{what} of {', '.join(shortest_names(names))}"


# ----------------------------------------------------------------------------------------- below it


def _left_out(ports: Sequence[Mapping[str, Any]]) -> list[Inside]:
    rows = [
        (f"{one['device']}:{one['port']}", one["reason"] or "", one["detail"]) for one in ports if not one["used"]
    ]
    if not rows:
        return []
    lines = [
        element(
            "li",
            element("code", f"{names} ({count} ports)" if count > 1 else names),
            element("code", reason),
            element("bdi", detail),
        )
        for count, (names, reason, detail) in folded_rows(rows)
    ]
    return [element("h2", "Ports left out"), element("ul", *lines, class_="table")]


def _environment(variables: Mapping[str, Mapping[str, Any]]) -> Element:
    """Return what is set and what is not, all variables of one source and reason in one row."""
    grouped: dict[tuple[bool, str, str], list[str]] = {}
    for name, one in variables.items():
        value = one["value"]
        text = name if value is None else f"{name}={value}"
        grouped.setdefault((value is None, one["source"], one["reason"]), []).append(text)
    lines = [
        element(
            "li",
            element("div", *(element("code", *_breakable(text), class_="set") for text in texts)),
            element("span", "not set" if unset else source, class_="soft"),
            element("bdi", reason),
        )
        for (unset, source, reason), texts in sorted(grouped.items(), key=lambda one: one[0][0])
    ]
    return element("ul", *lines, class_="table") if lines else element("p", "nothing to set", class_="soft")


def _breakable(text: str) -> Iterable[Element]:
    """Yield the parts of a text behind each of whose commas a line may end."""
    parts = text.split(",")
    for part in parts[:-1]:
        yield element("span", f"{part},")
    yield element("span", parts[-1])


def _command(argv: Sequence[str] | None) -> Element:
    if argv is None:
        return element("p", "none: no SGLang arguments were given, or a problem above prevents it", class_="soft")
    words: list[Inside] = []
    for word in argv:
        words += [element("span", as_words([word])), " "]
    return element("pre", element("bdi", *words[:-1]))

"""A page as a tree of elements, and as text: everything is escaped, and nothing is loaded or run."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from sglang_roce_entry.output import one_line
from sglang_roce_entry.report.page.style import STYLE

Inside = Element | str | None
#: What no space may be seen behind.
_LINES = frozenset(
    {
        "head",
        "body",
        "meta",
        "title",
        "style",
        "li",
        "ul",
        "p",
        "div",
        "details",
        "summary",
        "dt",
        "dd",
        "rect",
        "text",
        "path",
    }
)


def element(tag: str, *inside: Inside, **attributes: str | float | None) -> Element:
    """Return an element; ``None`` is left out. Attributes are named as Python can: ``class_``."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): readable(value) if isinstance(value, str) else f"{value:g}"
            for name, value in attributes.items()
            if value is not None
        },
    )
    for one in inside:
        if isinstance(one, str):
            text = readable(one)
            if len(made):
                made[-1].tail = (made[-1].tail or "") + text
            else:
                made.text = (made.text or "") + text
        elif one is not None:
            made.append(one)
    return made


def readable(text: str) -> str:
    """Return ``text`` as one line of characters that a page may hold; bytes that are not UTF-8 are escaped."""
    return one_line(text).encode("utf-8", "backslashreplace").decode()


def as_page(title: str, body: Iterable[Inside]) -> str:
    """Return the whole page. Its policy allows its own style, and nothing else: no script, no request."""
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    style = Element("style")
    style.text = STYLE
    root = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            style,
        ),
        element("body", *body),
        lang="en",
    )
    for one in root.iter():
        # Lines: a container's log and an editor take no line of a megabyte.
        if one.tag in _LINES and not one.tail:
            one.tail = "\n"
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"

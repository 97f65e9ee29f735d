"""A page as a reader without a browser sees it: its elements and texts, and that it can do nothing."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from html.parser import HTMLParser

VOID = {"meta"}


class Page(HTMLParser):
    """A page that was parsed: how often each element is there, its attributes, its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.classes: Counter[str] = Counter()
        self.texts: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.classes.update(word for name, value in attrs if name == "class" for word in (value or "").split())
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        elif data.strip():
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def read(html: str) -> Page:
    """Return the page. Fails if it can run, load or send anything."""
    assert html.isprintable() or all(line.isprintable() for line in html.split("\n"))
    page = Page(html)
    assert not page.tags.keys() & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "a",
        "base",
        "image",
    }
    assert not [one for one in page.attributes if one[1].startswith("on") or one[1] in ("style", "src", "href")]
    assert "url(" not in page.style
    assert "@import" not in page.style
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert ("meta", "content", policy) in page.attributes
    return page

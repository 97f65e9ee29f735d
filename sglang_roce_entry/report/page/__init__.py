"""Pages to look at, made of the JSON contracts alone: whoever has the document has the page."""

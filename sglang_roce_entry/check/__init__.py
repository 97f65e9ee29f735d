"""``--check``: every known trap as one line, with the evidence and the remedy."""

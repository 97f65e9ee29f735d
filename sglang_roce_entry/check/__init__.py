"""``--check``: each known trap on one line, with the evidence and the remedy."""

"""The comparison of the nodes of a group: cards in, problems out. Pure."""

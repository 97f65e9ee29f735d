"""Rails proven: those of a node against its peers' in one process, and each port against itself in another."""

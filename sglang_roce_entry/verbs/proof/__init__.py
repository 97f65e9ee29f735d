"""All rails of a node, proven against those of its peers, in one process."""

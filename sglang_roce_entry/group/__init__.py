"""Who this pod is in its group, and waiting for the leader."""

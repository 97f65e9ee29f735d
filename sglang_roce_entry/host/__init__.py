"""Facts: the one reader of this machine, and what it read, as frozen values."""

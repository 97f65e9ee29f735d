"""libibverbs through ctypes, and one RC exchange of a pair of ports. Knows nothing of the other rooms."""

"""A plan in its forms: text, shell, JSON, matrix, fingerprint, the lines of the log."""

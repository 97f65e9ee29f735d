"""Lines of ``--check`` on a server that runs here."""

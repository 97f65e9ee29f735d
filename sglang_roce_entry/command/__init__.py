"""The command line: settings, modes, manual; and how an error ends: two lines and an exit code."""

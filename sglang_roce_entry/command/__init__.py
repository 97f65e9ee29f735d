"""The command line: settings, modes, manual; where an error becomes two lines and an exit code."""

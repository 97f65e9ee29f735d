"""Rails proven: who tries what with whom, the relay between their ends, and what is said of the outcome."""

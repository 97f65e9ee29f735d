"""The whole decision as one value."""

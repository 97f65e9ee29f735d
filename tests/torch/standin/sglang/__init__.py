"""A stand-in for SGLang: the torch rendezvous of its start, and nothing else of it."""

__version__ = "0.5.23"

"""A stand-in for SGLang: same module name and entry point, no server behind it."""

__version__ = "0.5.23"

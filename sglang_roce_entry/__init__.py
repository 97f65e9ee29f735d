"""Container entrypoint that turns a plain pod into a running SGLang group on RoCE."""

__version__ = "0.1.0"

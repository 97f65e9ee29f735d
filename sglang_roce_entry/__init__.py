"""Container entrypoint that turns a plain pod into a running SGLang group on RoCE."""

__version__ = "0.1.0"

#: What shows something, as it is written; also how a running launcher is told from a mode of this program.
MODES = frozenset(
    {
        *("--print-env", "--dry-run", "--check", "--rehearse", "--save-snapshot", "--probe"),
        *("--explain", "--version", "--help"),
    }
)

"""``python -m sglang_roce_entry``: the same as the installed command."""

from sglang_roce_entry.command.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

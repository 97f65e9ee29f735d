"""What is written, whoever reads it: text that a terminal only shows, and stdout."""

from __future__ import annotations

import os
import sys

from sglang_roce_entry.problems import USAGE, EntryError


def one_line(text: str) -> str:
    """Return ``text`` as a line that a terminal only shows: spaces for breaks, escapes for control characters.

    A value of the pod may hold either. Bytes that are not UTF-8 (surrogates here) stay as they are, but for
    0x80 to 0x9f, with which an 8-bit terminal is steered.
    """
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or "\udca0" <= one <= "\udcff"
        else f"\\x{ord(one) & 0xFF:02x}"
        if "\udc80" <= one < "\udca0"
        else " "
        if one.isspace()
        else ascii(one)[1:-1]
        for one in text
    )


def squeezed(text: str) -> str:
    """Return ``text`` as such a line, with single spaces."""
    return one_line(" ".join(text.split()))


def write_stdout(product: str | bytes) -> None:
    """Write to stdout, byte for byte what a variable held. Raises ``EntryError``, ``BrokenPipeError``."""
    data = product if isinstance(product, bytes) else product.encode("utf-8", "surrogateescape")
    if sys.stdout is None:
        raise _not_written("it is closed")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as failure:
        # What is left in the buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise _not_written(failure.strerror or str(failure)) from failure


def _not_written(why: str) -> EntryError:
    return EntryError(
        "OUTPUT", f"stdout cannot be written: {why}", "send it to a file or pipe that can be written", USAGE
    )

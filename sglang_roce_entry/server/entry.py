"""The ways to start SGLang's server: how its command line is recognised, whoever wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from sglang_roce_entry.server.spellings import MODULE

#: ``sglang serve`` as a module (``sglang/cli/main.py``, 0.5.5 and later).
_CLI_MODULE = "sglang.cli.main"
_SCRIPT = "sglang/launch_server.py"
#: Python's single-letter options that take a value, in the same token or the next.
_WITH_VALUE = "mcXW"
#: What ``--model-type`` may say where ``sglang serve`` starts the server that ``sglang.launch_server`` starts.
_LANGUAGE_MODELS = ("auto", "llm")


def sglang_arguments(argv: Sequence[str]) -> tuple[str, ...] | None:
    """Return the arguments of a process that is SGLang's server, ``None`` for any other.

    Its children have other command lines: they are spawned, and name themselves ``sglang::scheduler``.
    """
    program, arguments = program_of(argv)
    if program in (MODULE, _SCRIPT) or program.endswith(f"/{_SCRIPT}"):
        return arguments
    if (program == _CLI_MODULE or os.path.basename(program) == "sglang") and arguments[:1] == ("serve",):
        return _of_serve(arguments[1:])
    return None


def _of_serve(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return arguments of ``sglang serve`` as ``sglang.launch_server`` takes them: the model has its option."""
    if arguments and not arguments[0].startswith("-"):
        return ("--model-path", *arguments)
    return arguments


def launch_form(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return a command line that starts SGLang as the words that do, and SGLang's arguments; else ``None``.

    ``sglang serve --model-type`` of another kind (``sglang/cli/serve.py``) is another server.
    """
    arguments = sglang_arguments(argv)
    if arguments is None:
        return None
    _, own = program_of(argv)
    head = tuple(argv[: len(argv) - len(own)])
    if own == arguments:
        return head, arguments
    kept: list[str] = []
    following = iter(arguments)
    for token in following:
        name, equals, value = token.partition("=")
        if name != "--model-type":
            kept.append(token)
        elif (value if equals else next(following, "")) not in _LANGUAGE_MODELS:
            return None
    return (*head, "serve"), tuple(kept)


def starts_sglang(argv: Sequence[str]) -> bool:
    """Return whether a program is told to start SGLang: ``env X=1 python3 -m ...``, ``sh -c "exec ..."``."""
    words: list[str] = []
    script = False
    for word in argv[1:]:
        words += re.split(r"[\s;&|(){}'\"]+", word) if script else [word]
        script = re.fullmatch(r"-[a-z]*c", word) is not None
    # A module's name alone starts nothing: grep sglang.launch_server.
    return any(word != MODULE and sglang_arguments(words[place:]) is not None for place, word in enumerate(words))


def program_of(argv: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the module or script that an interpreter runs, or the program itself, and its arguments."""
    if not argv:
        return "", ()
    if not os.path.basename(argv[0]).startswith("python"):
        return argv[0], tuple(argv[1:])
    following = iter(argv[1:])
    for token in following:
        if token == "-" or not token.startswith("-"):
            return token, tuple(following)
        if token == "--check-hash-based-pycs":
            next(following, None)
        elif not token.startswith("--"):
            letters = token[1:]
            place = next((at for at, letter in enumerate(letters) if letter in _WITH_VALUE), None)
            if place is None:
                continue
            value = letters[place + 1 :] or next(following, "")
            if letters[place] in "mc":
                return (value if letters[place] == "m" else ""), tuple(following)
    return "", ()

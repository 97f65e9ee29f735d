"""Runs inside one SGLang release: loads its argument parser once, then answers many command lines.

One JSON object a line, on standard input and on the descriptor that was standard output at the
start (what SGLang prints goes to standard error). Needs nothing but that release on the path.

    {"table": {"tp_size": ["--tp-size", ...]}}   first line: the options asked about, and where they are read
    {"spellings": true}                          every spelling that the parser has
    {"options": true}                            every option: its spellings, type, number of values, default
    {"values": ["--tp", "16"]}                   what the parser makes of a command line, where it is not the default
    {"means": ["--tp", ...]}                     what each token abbreviates, by the parser's own look-up
    {"parse": ["--tp", "16"]}                    what the parser makes of a command line, files included
    {"resolve": ["--tp", "16", ...]}             the same with all that SGLang decides before it starts processes
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from typing import Any

ABSENT = object()
RESOLVED = ("tp_size", "pp_size", "dp_size", "nnodes", "node_rank", "dist_init_addr", "host", "port")


class Parsed(Exception):
    """The parser's namespace, before SGLang makes its own object of it."""

    def __init__(self, namespace: argparse.Namespace) -> None:
        super().__init__()
        self.namespace = namespace


class Release:
    """The release on the path, with its parser registered once."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        import sglang
        from sglang.srt import server_args

        self.version: str = sglang.__version__
        self._module = server_args
        self.parser = argparse.ArgumentParser(prog="sglang")
        server_args.ServerArgs.add_cli_args(self.parser)
        self._registered = server_args.ServerArgs.add_cli_args
        self._made = server_args.ServerArgs.from_cli_args
        # Where the release keeps each option of the table: the names of its attributes have changed.
        self._attributes: dict[str, str] = {}
        for dest, spellings in table.items():
            for spelling in spellings:
                action = self._actions.get(spelling)
                if action is not None:
                    self._attributes[dest] = action.dest
        self._defaults = {name: self.parser.get_default(name) for name in self._attributes.values()}

    @property
    def _actions(self) -> dict[str, argparse.Action]:
        return self.parser._option_string_actions

    def spellings(self) -> dict[str, str | int | None]:
        """Return every long spelling and how many values it takes (argparse's `nargs`)."""
        return {name: action.nargs for name, action in self._actions.items() if name.startswith("--")}

    def options(self) -> list[dict[str, Any]]:
        """Return every option as argparse keeps it, in the order of its help."""
        return [
            {
                "spellings": action.option_strings,
                "action": type(action).__name__,
                "type": getattr(action.type, "__name__", None),
                "nargs": action.nargs,
                "default": action.default if isinstance(action.default, (str, int, float)) else None,
            }
            for action in self.parser._actions
        ]

    def values(self, argv: list[str]) -> dict[str, str]:
        """Return every option whose value is not its default, as JSON."""
        needed = ["--model-path", "of every command line"]
        default, given = (vars(self.parser.parse_args([*needed, *more])) for more in ([], argv))
        return {
            name: json.dumps(value, sort_keys=True, default=repr)
            for name, value in given.items()
            if value != default[name]
        }

    def means(self, tokens: list[str]) -> list[str | None]:
        """Return for each token the spelling that it stands for; None: refused, as unknown or ambiguous."""
        found: list[str | None] = []
        for token in tokens:
            if token in self._actions:
                found.append(token)
                continue
            matches = [match[1] for match in self.parser._get_option_tuples(token)]
            found.append(matches[0] if len(matches) == 1 else None)
        return found

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Return the table's options that `argv` gives, by the release's own `prepare_server_args`."""

        def register(parser: argparse.ArgumentParser) -> None:
            # Registering hundreds of options for each command line would take most of the time.
            parser.__dict__.update(self.parser.__dict__)

        def stop(namespace: argparse.Namespace) -> None:
            raise Parsed(namespace)

        arguments = self._module.ServerArgs
        arguments.add_cli_args = staticmethod(register)
        arguments.from_cli_args = staticmethod(stop)
        self.parser.set_defaults(**dict.fromkeys(self._defaults, ABSENT))
        try:
            namespace = self._namespace(argv)
        finally:
            self.parser.set_defaults(**self._defaults)
            arguments.add_cli_args = self._registered
            arguments.from_cli_args = self._made
        values = {dest: getattr(namespace, name, ABSENT) for dest, name in self._attributes.items()}
        return {
            "given": {dest: value for dest, value in values.items() if value is not ABSENT},
            "unread_config": getattr(namespace, "config", None),
        }

    def _namespace(self, argv: list[str]) -> argparse.Namespace:
        try:
            self._module.prepare_server_args(list(argv))
        except Parsed as parsed:
            return parsed.namespace
        raise RuntimeError("prepare_server_args has made its object in another way")

    def resolve(self, argv: list[str]) -> dict[str, Any]:
        """Return what SGLang goes on with, checks included, and the addresses of its processes."""
        arguments = self._module.prepare_server_args(list(argv))
        if hasattr(arguments, "resolve_once"):
            arguments.resolve_once()  # 0.5.2x: decisions moved here from __post_init__
        if hasattr(arguments, "check_server_args"):
            arguments.check_server_args()
        ports = self._module.PortArgs.init_new(arguments)
        return {
            **{name: getattr(arguments, name, None) for name in RESOLVED},
            "tokenizer": ports.tokenizer_ipc_name,
            "handshake_delta": getattr(self._module, "DP_ATTENTION_HANDSHAKE_PORT_DELTA", None),
        }


def answer(release: Release, question: dict[str, Any]) -> dict[str, Any]:
    """Return the answer, or in `refused` the last thing that the release said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if "means" in question:
                return {"means": release.means(question["means"])}
            if "spellings" in question:
                return {"spellings": release.spellings()}
            if "options" in question:
                return {"options": release.options()}
            if "values" in question:
                return {"values": release.values(question["values"])}
            if "parse" in question:
                return release.parse(question["parse"])
            with contextlib.chdir(question["directory"]):
                return release.resolve(question["resolve"])
    except SystemExit:
        return {"refused": next(iter(reversed(said.getvalue().strip().splitlines())), "exit")}
    except Exception as failure:  # noqa: BLE001 - whatever SGLang ends with is its refusal
        return {"refused": f"{type(failure).__name__}: {failure}"}


def main() -> None:
    """Answer until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    release = Release(first["table"])
    print(json.dumps({"version": release.version}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(release, json.loads(line)), default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()

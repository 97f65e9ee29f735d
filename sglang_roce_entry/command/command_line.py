"""The launcher's own command line, and where it ends.

Our options count only before the first token that is not ours, in exact spelling. From there on, or
after ``--``, everything is SGLang's. A bare word is another command.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from sglang_roce_entry import MODES
from sglang_roce_entry.command.settings import BY_FLAG, Setting, bad_value
from sglang_roce_entry.invocation import BARE_WORD, LAUNCH, Invocation
from sglang_roce_entry.probe_kinds import kinds_of
from sglang_roce_entry.problems import UsageError
from sglang_roce_entry.server.entry import launch_form, sglang_arguments
from sglang_roce_entry.server.spellings import find_option

#: Modes: the formats after "=", the first where there is none; or the value that they need.
FORMATS = {
    "--print-env": ("shell", "json"),
    "--check": ("text", "json"),
    **dict.fromkeys(("--dry-run", "--rehearse"), ("text", "json", "html")),
}
#: Of these, what is a document also where no plan can be made: the failure is in it.
DOCUMENTS = ("json", "html")
#: The modes that print a page of text and look at nothing.
PAGES = frozenset({"help", "version", "explain"})
_EXPLAIN = "--explain"  # its value may be left out
_KEEP = "--keep-identifiers"  # of --save-snapshot
_VALUE_MODES = {"--save-snapshot": "FILE", "--probe": "startup|readiness|liveness|ranks, or several with commas"}
_SAVE, _REPLAY = "--save-meeting", "--meeting-file"  # of --rehearse
_VALUE_OPTIONS = {"--policy": "FILE", "--snapshot": "FILE or NAME", _SAVE: "FILE", _REPLAY: "FILE"}
_OURS = frozenset({*BY_FLAG, *MODES, *_VALUE_OPTIONS, _KEEP})

#: SGLang's abbreviations of other options; their values show which is meant.
_SHARED = {"--tp": "auto or off", "--dist-init": "a port number"}

#: From this ratio of difflib on, an unknown option is taken for one of ours with a slip in it.
_CLOSE = 0.86

#: What looks like "-" and is none, as word processors, chats and PDF readers make it.
_DASHES = {
    "\u2010": "hyphen",
    "\u2011": "non-breaking hyphen",
    "\u2012": "figure dash",
    "\u2013": "en dash",
    "\u2014": "em dash",
    "\u2015": "horizontal bar",
    "\u2212": "minus sign",
    "\ufe58": "small em dash",
    "\ufe63": "small hyphen-minus",
    "\uff0d": "fullwidth hyphen-minus",
}
_ALL_DASHES = "-" + "".join(_DASHES)
#: Zero width: pasted with a word, and no space to Python.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"


def parse_command_line(argv: Sequence[str]) -> Invocation:
    """Return what ``argv``, without the program's name, asks for. Raises ``UsageError``."""
    reader = _Reader(tuple(argv))
    flags: dict[str, str] = {}
    mode: tuple[str, str] | None = None
    places: dict[str, str] = {}
    form, marked = LAUNCH, False
    while reader.more():
        token = reader.peek()
        if token == "--":
            reader.take()
            marked = True
            break
        name, equals, value = token.partition("=")
        name = "--help" if token == "-h" else name
        if not _is_ours(name, reader.value_after(equals, value)):
            form = LAUNCH if token.startswith("-") else BARE_WORD
            break
        reader.take()
        setting = BY_FLAG.get(name)
        if setting is not None:
            flags[setting.key] = _setting_value(reader, setting, equals, value)
        elif name == _KEEP:
            places[name] = _mode_value(reader, name, equals, value)
        elif name in _VALUE_OPTIONS:
            places[name] = reader.value(name, equals, value, _VALUE_OPTIONS[name])
        else:
            chosen = name.removeprefix("--"), _mode_value(reader, name, equals, value)
            if mode is not None and mode[0] != chosen[0]:
                raise UsageError(f"--{mode[0]} and {name} are two modes", "give one of them")
            mode = chosen
    rest = reader.rest()
    started = launch_form(rest)
    if started is not None:
        form = LAUNCH
    elif rest:
        _refuse_first(rest[0], form, marked=marked)
    replaced, rest = started or ((), rest)
    invocation = Invocation(
        flags=flags,
        mode=mode[0] if mode else None,
        mode_value=mode[1] if mode else "",
        policy=places.get("--policy"),
        snapshot=places.get("--snapshot"),
        rest=rest,
        form=form,
        replaced=replaced,
        keep_identifiers=_KEEP in places,
        save_meeting=places.get(_SAVE),
        meeting_file=places.get(_REPLAY),
    )
    _check(invocation)
    return invocation


def readable(argv: Sequence[str]) -> Invocation:
    """Return what can be read of a command line that is rejected: a mode as it is written, else what was asked."""
    reader, given = _Reader(tuple(argv)), dict[str, str]()
    while reader.more():
        name, equals, value = reader.peek().partition("=")
        if name in MODES or name == "-h":
            return Invocation(mode=name.removeprefix("--"), mode_value=value)
        if not _is_ours(name, reader.value_after(equals, value)):
            break
        reader.take()
        if not equals and name != _KEEP and _takes_the_next(reader, BY_FLAG.get(name)):
            value = reader.take()
        given[name] = value
    flags = {BY_FLAG[name].key: text for name, text in given.items() if name in BY_FLAG}
    rest = reader.rest()[reader.rest()[:1] == ("--",) :]
    _, rest = launch_form(rest) or ((), rest)
    word = bool(rest) and rest[0][:1] not in f"{_ALL_DASHES}$"
    return Invocation(flags, policy=given.get("--policy"), rest=rest, form=BARE_WORD if word else LAUNCH)


class _Reader:
    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv
        self._position = 0

    def more(self) -> bool:
        return self._position < len(self._argv)

    def peek(self) -> str:
        return self._argv[self._position]

    def take(self) -> str:
        token = self._argv[self._position]
        self._position += 1
        return token

    def rest(self) -> tuple[str, ...]:
        return self._argv[self._position :]

    def value_after(self, equals: str, value: str) -> str | None:
        if equals:
            return value
        following = self._position + 1
        return self._argv[following] if following < len(self._argv) else None

    def value(self, name: str, equals: str, value: str, metavar: str) -> str:
        if equals:
            return value
        if not self.more() or (self.peek().startswith("--") and self.peek() != "-"):
            raise UsageError(f"{name} has no value", f"write {name} {metavar}")
        return self.take()


def _is_ours(name: str, value: str | None) -> bool:
    if name not in _OURS:
        return False
    if name == "--tp":
        return value in ("auto", "off")
    if name == "--dist-init":
        return value is None or value.isdecimal()
    return True


def _setting_value(reader: _Reader, setting: Setting, equals: str, value: str) -> str:
    if setting.alone is not None and not equals and not _takes_the_next(reader, setting):
        return setting.alone
    text = reader.value(setting.flag, equals, value, setting.metavar)
    try:
        if text.strip() and "$(" not in text:  # what was not expanded is judged with the variables at hand
            setting.parse(text.strip())
    except ValueError as problem:
        raise bad_value(setting, setting.flag, text, problem) from problem
    return text


def _takes_the_next(reader: _Reader, setting: Setting | None) -> bool:
    """Return whether the next token is a value: of a flag that may stand alone it is one unless it has dashes."""
    if setting is None or setting.alone is None:
        return reader.more()
    # The whole command of SGLang may follow a flag that stands alone.
    return reader.more() and not reader.peek().startswith("-") and sglang_arguments(reader.rest()) is None


def _mode_value(reader: _Reader, name: str, equals: str, value: str) -> str:
    if name in FORMATS:
        formats = FORMATS[name]
        if equals and value not in formats:
            choices = " or ".join(f"{name}={choice}" for choice in formats)
            raise UsageError(f"{name}={value} is not a format", f"write {choices}")
        return value or formats[0]
    if name in _VALUE_MODES:
        given = reader.value(name, equals, value, _VALUE_MODES[name])
        if name == "--probe" and kinds_of(given) is None:
            raise UsageError(f"{name} {given!r} is not a probe", f"write {name} {_VALUE_MODES[name]}")
        return given
    if name == _EXPLAIN:
        if not equals and reader.more() and not reader.peek().startswith("-"):
            return reader.take()
        return value
    if equals:
        raise UsageError(f"{name} takes no value", f"write {name}")
    return ""


def _check(invocation: Invocation) -> None:
    if invocation.keep_identifiers and invocation.mode != "save-snapshot":
        raise UsageError(f"{_KEEP} belongs to --save-snapshot", f"write --save-snapshot FILE {_KEEP}")
    if invocation.mode == "probe" and invocation.snapshot is not None:
        raise UsageError("--probe asks a running server; a snapshot has none", "leave out --snapshot")
    _check_rehearsal(invocation)
    if invocation.mode == "probe" and invocation.form == BARE_WORD:
        raise UsageError(
            f"{_hidden(invocation.rest[0])} after --probe is not an argument of SGLang",
            "give its arguments after --: -- --port 30000",
        )
    if invocation.form == LAUNCH:
        _refuse_ours_among(invocation.rest)
    elif invocation.rest[0] in FORMATS.get(f"--{invocation.mode}", ()):
        mode, word = invocation.mode, invocation.rest[0]
        raise UsageError(
            f"{word} after --{mode} would be a program to run",
            f"write --{mode}={word}; for a program of that name give its path",
        )
    if invocation.mode is not None:
        return
    if invocation.snapshot is not None:
        raise UsageError(
            "--snapshot replays another node, which cannot be launched on",
            "add a mode: --dry-run, --check or --print-env",
        )
    if not invocation.rest:
        raise UsageError(
            "no SGLang arguments were given",
            "put them in the container's args (--model-path ...), or look with --dry-run or --help",
        )


def _check_rehearsal(invocation: Invocation) -> None:
    saved, replayed = invocation.save_meeting, invocation.meeting_file
    if invocation.mode != "rehearse":
        if saved is not None or replayed is not None:
            name = _SAVE if saved is not None else _REPLAY
            raise UsageError(f"{name} belongs to --rehearse", f"write {name} FILE --rehearse")
        return
    if invocation.snapshot is not None:
        raise UsageError("--rehearse meets the other nodes; a snapshot has none", "leave out --snapshot")
    if replayed is not None and (saved is not None or invocation.rest):
        more = _SAVE if saved is not None else "what follows"
        raise UsageError(f"{_REPLAY} replays what was saved, {more} is of a meeting", f"leave out {more}")
    if saved in ("-", ""):
        raise UsageError(f"{_SAVE} needs a file: stdout has the result", f"write {_SAVE} meeting.json")
    if invocation.form == BARE_WORD:
        raise UsageError(
            f"{invocation.rest[0]} after --rehearse is not an argument of SGLang",
            "rehearse with SGLang's arguments, as the launch has them, or without any",
        )


def _refuse_ours_among(rest: Sequence[str]) -> None:
    ours = _OURS - {"--help"}  # SGLang has its own --help
    for position, token in enumerate(rest):
        if token[:1] in _DASHES and find_option("--" + token.lstrip(_ALL_DASHES).partition("=")[0]) is not None:
            _refuse_dash(token)
        name, equals, value = token.partition("=")
        following = value if equals else rest[position + 1] if position + 1 < len(rest) else None
        if name in ours and _is_ours(name, following):
            shared = f" (with {_SHARED[name]} it is an option of sglang-roce-entry)" if name in _SHARED else ""
            first = _hidden(rest[0]) if position else "the first argument of SGLang"
            raise UsageError(f"{name} is among SGLang's arguments{shared}", f"put it before {first}")


def _refuse_first(token: str, form: str, *, marked: bool) -> None:
    """Refuse what can neither be SGLang's first argument nor a program: a template's hole, a slip of the keys.

    ``marked``: it comes after ``--``, so that it is no misspelt option of ours.
    """
    if not token:
        raise UsageError(
            "the first argument is empty", "a template has left a hole: remove it, or correct the variable"
        )
    _refuse_dash(token)
    name = token.partition("=")[0]
    if any(one.isspace() or one in _INVISIBLE for one in (token if form == BARE_WORD else name)):
        raise UsageError(
            f"{_hidden(token)!r} as the first argument has a space or an invisible character in it",
            "write every word as an item of its own: args: [--model-path, /models/m]",
        )
    if form == BARE_WORD and (token.startswith("$") or "$(" in token):
        raise UsageError(
            f"the first argument {_hidden(token)!r} was not expanded",
            "Kubernetes expands only $(NAME) of a variable in the container's env: check its name, or remove it",
        )
    if form == LAUNCH and not marked:
        _refuse_misspelling(token)


def _hidden(token: str) -> str:
    """Return what of a token can be shown: what follows its first word, or a ``=``, may be a key."""
    words = token.partition("=")[0].split(None, 1)
    return f"{words[0]} ..." if len(words) > 1 else "".join(words)


def _refuse_dash(token: str) -> None:
    """Refuse dashes that an editor has made of the two that were typed."""
    name = _DASHES.get(token[0])
    if name is None:
        return
    plain = token.lstrip(_ALL_DASHES).partition("=")[0]
    article = "an" if name[0] in "aeiou" else "a"
    raise UsageError(f"{_hidden(token)!r} begins with {article} {name}", f"write --{plain}")


def _refuse_misspelling(token: str) -> None:
    """Refuse what is one slip away from an option of ours: SGLang would only report it after its imports."""
    if not token.startswith("--"):
        if token.startswith("-") and token != "-":
            name = token.partition("=")[0]  # what follows it may be a key
            raise UsageError(f"{name} is not an option", "see --help; SGLang has no short options but -h")
        return
    name = token.partition("=")[0]
    if find_option(name) is not None or name in _OURS:
        return
    squeezed = name.replace("_", "-")
    if squeezed in _OURS:
        raise UsageError(f"{name} is not an option", f"did you mean {squeezed}?")
    close = get_close_matches(name, sorted(_OURS), n=1, cutoff=_CLOSE)
    if close:
        raise UsageError(
            f"{name} is not an option", f"did you mean {close[0]}? An argument of SGLang goes after --"
        )

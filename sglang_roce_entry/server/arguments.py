"""The user's own SGLang arguments, in any spelling that SGLang's parser takes.

On the command line the last occurrence wins, and everything on it wins over ``--config FILE``
(``srt/utils/server_args_config_parser.py``: the file's keys are put in front of the arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sglang_roce_entry.group.endpoint import MAX_PORT
from sglang_roce_entry.problems import ConfigurationError, Problem, warning
from sglang_roce_entry.server.spellings import CONFIG, Option, find_option, is_ignored_config, is_value

DEFAULT_HTTP_PORT = 30000  # SGLang's --port


@dataclass(frozen=True, slots=True)
class Argument:
    """One value that the user gave, and where: ``--tp`` or ``tp-size in serve.yaml``."""

    text: str
    where: str


@dataclass(frozen=True, slots=True)
class UserArguments:
    """The user's SGLang arguments, as far as they matter here, by argparse destination."""

    argv: tuple[str, ...]
    values: Mapping[str, Argument] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    #: Texts of files that an option names instead of a value; ``None``: not readable.
    files: Mapping[str, str | None] = field(default_factory=dict)
    #: What ``--config`` says, as the tokens that SGLang puts in front of all others.
    from_file: tuple[str, ...] = ()

    def text(self, dest: str) -> str | None:
        """Return the value of an option, ``None`` if the user has not given it."""
        argument = self.values.get(dest)
        return argument.text if argument else None

    def number(self, dest: str, default: int, lowest: int = 1) -> int:
        """Return an integer option or its default. Raises ``ConfigurationError`` on anything else."""
        argument = self.values.get(dest)
        if argument is None:
            return default
        number = _whole_number(argument.text)
        if number is None or number < lowest:
            raise ConfigurationError(
                "ARGUMENT",
                f"{argument.where} {argument.text!r} is not a whole number of at least {lowest}",
                f"correct {argument.where} in the container's args",
            )
        return number

    def tcp_port(self, dest: str, default: int) -> int:
        """Return a port option or its default. Raises ``ConfigurationError`` if it is not a TCP port."""
        port = self.number(dest, default)
        argument = self.values.get(dest)
        if argument is not None and port > MAX_PORT:
            raise ConfigurationError(
                "ARGUMENT",
                f"{argument.where} {port} is out of range",
                f"write a port from 1 to {MAX_PORT} after {argument.where}",
            )
        return port

    @property
    def http_port(self) -> int:
        """The port of the HTTP server. Raises ``ConfigurationError`` if it is not a TCP port."""
        return self.tcp_port("port", DEFAULT_HTTP_PORT)

    @property
    def attention_dp(self) -> bool:
        """Whether attention data parallelism is asked for, in the old spelling or the new, or implied.

        ``--dwdp-size N`` is ``--attn-dp-size N`` (0.5.23, ``srt/arg_groups/parallel_hook.py``, ``handle_dwdp``).
        """
        return "enable_dp_attention" in self.values or max(map(self._size, ("attn_dp_size", "dwdp_size"))) > 1

    @property
    def attention_dp_size(self) -> int:
        """The number of ranks of attention data parallelism, 1 without it."""
        size = max(map(self._size, ("attn_dp_size", "dwdp_size")))
        return self._size("dp_size") if size == 1 and self.attention_dp else size

    def _size(self, dest: str) -> int:
        return self.number(dest, 1, lowest=0)


def read_arguments(argv: Sequence[str], read_file: Callable[[str], str] | None = None) -> UserArguments:
    """Return the options in ``argv``. ``read_file(path)`` returns a ``--config`` file's text (``None``: unread).

    Raises ``ConfigurationError`` where SGLang itself would reject the file.
    """
    tokens = tuple(argv)
    problems: list[Problem] = []
    values: dict[str, Argument] = {}
    config = _config_path(tokens) if read_file is not None else None
    from_file: tuple[str, ...] = ()
    if config is not None and read_file is not None:
        known, from_file = _read_config(config, read_file, problems)
        values.update(known)
    values.update(_scan(tokens))
    for token in tokens:
        if is_ignored_config(token):
            problems.append(
                warning(
                    "CONFIG_IGNORED",
                    f"SGLang accepts {token.partition('=')[0]!r} in this form but never reads the file",
                    "write it as two tokens: --config FILE.yaml",
                )
            )
    return UserArguments(tokens, values, tuple(problems), _device_files(values, read_file), from_file)


def _device_files(values: Mapping[str, Argument], read_file: Callable[[str], str] | None) -> dict[str, str | None]:
    files: dict[str, str | None] = {}
    for dest in ("disaggregation_ib_device", "mooncake_ib_device"):
        path = values[dest].text.strip() if dest in values else ""
        if path.endswith(".json") and read_file is not None:
            try:
                files[path] = read_file(path)
            except (OSError, ValueError):
                files[path] = None
    return files


def _scan(tokens: tuple[str, ...], origin: str = "") -> dict[str, Argument]:
    found: dict[str, Argument] = {}
    for position, token in enumerate(tokens):
        if not token.startswith("--") or token == "--":
            continue
        name, equals, value = token.partition("=")
        option = find_option(name)
        if option is None:
            continue
        where = f"{name.removeprefix('--')} in {origin}" if origin else name
        if option.flag:
            found[option.dest] = Argument("", where)
        elif equals:
            found[option.dest] = Argument(value, where)
        else:
            following = tokens[position + 1] if position + 1 < len(tokens) else None
            if following is not None and is_value(following):
                found[option.dest] = Argument(following, where)
    return found


def _whole_number(text: str) -> int | None:
    """Return what SGLang's ``type=int`` makes of it (``+8`` and ``1_6`` are numbers), ``None`` beyond 9 digits."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) < 10**9 else None


def _config_path(tokens: tuple[str, ...]) -> str | None:
    if CONFIG not in tokens:
        return None
    position = tokens.index(CONFIG)
    if tokens.count(CONFIG) > 1:
        raise ConfigurationError(
            "CONFIG_FILE", "--config is given more than once; SGLang allows one", "merge the files"
        )
    if position + 1 >= len(tokens):
        raise ConfigurationError(
            "CONFIG_FILE", "--config is not followed by a file name", "write --config FILE.yaml"
        )
    return tokens[position + 1]


def _read_config(
    path: str, read_file: Callable[[str], str], problems: list[Problem]
) -> tuple[dict[str, Argument], tuple[str, ...]]:
    """Return the options that are known here, and all tokens that SGLang makes of the file."""
    if not path.lower().endswith((".yaml", ".yml")):
        raise ConfigurationError(
            "CONFIG_FILE", f"--config {path!r} does not end in .yaml or .yml", "SGLang reads only YAML"
        )
    from sglang_roce_entry.yaml_text import read_mapping

    document = read_mapping(
        path,
        read_file,
        code="CONFIG_FILE",
        what="--config",
        mount="mount the file (ConfigMap) or correct the path; it is relative to the working directory",
        write="write one 'option: value' a line, like 'tp-size: 16'",
    )
    tokens: list[str] = []
    for key, value in document.items():
        name = f"--{key}"
        option = find_option(name)
        if option is None and find_option(name.replace("_", "-")) is not None:
            problems.append(
                warning(
                    "CONFIG_KEY",
                    f"SGLang rejects the key {key!r} of {path}",
                    f"write it with dashes: {str(key).replace('_', '-')}",
                )
            )
        tokens.extend(_config_tokens(name, value, option))
    return _scan(tuple(tokens), path), tuple(tokens)


def _config_tokens(name: str, value: object, option: Option | None) -> list[str]:
    """Return the tokens that SGLang makes of one key of its YAML file."""
    if isinstance(value, bool):
        if option is not None and not option.flag:
            return [name, str(value).lower()]  # by 0.5.9; 0.5.6 refuses "host: yes" and drops "host: no"
        return [name] if value else []
    if isinstance(value, list):
        return [name, *(_text(item) for item in value)] if value else []
    return [name, _text(value)]


def _text(value: object) -> str:
    # Python refuses to print a number of more than 4,300 digits, and none is needed here.
    return "9" * 20 if isinstance(value, int) and abs(value) > 10**20 else str(value)

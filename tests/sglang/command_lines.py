"""Generated command lines: what users write, what they could write, and what nobody should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from sglang_roce_entry.server.spellings import OPTIONS, Option

if TYPE_CHECKING:
    from collections.abc import Collection

CONFIG_NAMES = ("serve.yaml", "serve.yml", "other.YAML", "wrong.json")

NUMBERS = ("1", "2", "8", "16", " 4 ", "+4", "1_6", "0", "-1", "030", "16.0", "x", "", "0x10", "٤")
TEXTS = ("10.0.0.1", "::", "h:20000", "[fd00::1]:20000", "a b", "-1", "-", "None", "--port", "-x", "")
CHOICES = {
    "disaggregation_mode": ("null", "prefill", "decode", "both"),
    "disaggregation_transfer_backend": ("mooncake", "nixl"),
    "device": ("cuda", "cpu"),
    "ep_join_mode": ("scale", "recover"),
}
SIZES = ("tp_size", "pp_size", "dp_size", "attn_dp_size", "nnodes")
PORTS = tuple(option.dest for option in OPTIONS if option.dest.endswith("_port"))
INTEGERS = (*SIZES, "dwdp_size", "node_rank", "dist_timeout", "port", "base_gpu_id", "gpu_id_step", *PORTS)

# The beginning of a secret option that is another option's whole name: what it takes is shown.
NO_SECRET = "--ssl-keyfile"
# Options of SGLang that are none of ours, some of which begin like ours, all of them in every release.
OTHERS = (
    ("--trust-remote-code",),
    ("--trust-remote",),
    ("--model-path", "other"),
    ("--max-total-tokens", "5"),
    ("--tokenizer-path=t",),
    ("--attention-backend", "triton"),
    ("--served-model-name=--tp-size",),
    ("--json-model-override-args", '{"--tp": 8}'),
    ("--chat-template", "--tp-size 8"),
    ("--chat-template", "-1"),
    ("--lora-paths", "a", "b"),
    ("--served-model-name", "--tp-size"),
    ("--served-model-name", "--config"),
)
# Mostly refused; each changes how what follows would be read.
ODDITIES = ("--", "-1", "positional", "--tp-size 8", "--=8", "---tp-size", "-tp", "--tp_size", "--TP-SIZE")

OTHER_KEYS: tuple[tuple[str, object], ...] = (
    ("trust-remote-code", True),
    ("max-total-tokens", 5),
    ("lora-paths", ["a", "b"]),
    ("lora-paths", ["a", "--tp-size", "8"]),
    ("served-model-name", "--tp-size=8"),
    ("tp_size", 8),
    ("chat-template", None),
)
PLAIN_VALUES: tuple[object, ...] = (1, 2, 8, "16", "h:20000", None, 1.5, [8], [], [8, 4], "", "-x")


#: Beginnings that mean one of our options in some release and another option in another: the table takes
#: them for neither.
AMBIGUOUS = frozenset(
    "--enable-deepep-"[:length] for length in range(len("--enable-de"), len("--enable-deepep-") + 1)
)


@dataclass(frozen=True)
class CommandLine:
    """The arguments, and the YAML files that lie in the working directory."""

    argv: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class Dialect:
    """What of the table a release has, whether it has `--config`, and whether `host: no` is a word in it."""

    options: tuple[Option, ...]
    files: bool
    boolean_words: bool

    @classmethod
    def of(cls, spellings: Collection[str], *, boolean_words: bool) -> Dialect:
        """Return the dialect of a release with these spellings."""
        known = tuple(option for option in OPTIONS if option.name in spellings)
        return cls(known, "--config" in spellings, boolean_words)


def rarely(times: int) -> st.SearchStrategy[bool]:
    """Return what is true about once in so many times."""
    return st.sampled_from((*[False] * (times - 1), True))


def values_of(option: Option) -> st.SearchStrategy[str]:
    """Return values for one option; most are what a user would write."""
    if option.secret:
        return st.sampled_from(("s3cr3t-value", "s3cr3t value", "-s3cr3t", "--s3cr3t value", "-s3cr3t value"))
    if option.dest in CHOICES:
        return st.sampled_from(CHOICES[option.dest])
    usual, all_of_them = (NUMBERS[:4], NUMBERS) if option.dest in INTEGERS else (TEXTS[:4], TEXTS)
    return st.sampled_from((*usual * 6, *all_of_them))


@st.composite
def spelled_names(draw: st.DrawFn, option: Option) -> str:
    """Return a spelling, or any beginning of one, down to what is ambiguous."""
    spelling, shortest = draw(st.sampled_from(option.spellings))
    shortest_length = draw(st.sampled_from((*[len(spelling)] * 4, *[len(shortest)] * 3, 3)))
    name = spelling[: draw(st.integers(min(shortest_length, len(spelling)), len(spelling)))]
    return spelling if name in AMBIGUOUS else name


@st.composite
def own_tokens(draw: st.DrawFn, options: tuple[Option, ...]) -> tuple[str, ...]:
    """Return one of the options in one of the forms that a command line has for it."""
    option = draw(st.sampled_from(options))
    name = draw(spelled_names(option))
    if option.flag:
        return draw(st.sampled_from((*[(name,)] * 9, (f"{name}=true",))))
    value = "/key.pem" if name == NO_SECRET else draw(values_of(option))
    return draw(st.sampled_from((*[(name, value)] * 6, *[(f"{name}={value}",)] * 6, (name,))))


@st.composite
def documents(draw: st.DrawFn, dialect: Dialect) -> str:
    """Return a YAML file as SGLang's `--config` takes it, rarely one that it does not."""
    plain = (*PLAIN_VALUES, True, False) if dialect.boolean_words else PLAIN_VALUES
    keys: dict[str, object] = {}
    for _ in range(draw(st.integers(0, 4))):
        if draw(rarely(4)):
            key, value = draw(st.sampled_from(OTHER_KEYS))
            keys[key] = value
            continue
        option = draw(st.sampled_from(dialect.options))
        name = draw(spelled_names(option)).removeprefix("--")
        if option.flag:
            keys[name] = draw(st.sampled_from((True, True, True, False, "true", 1)))
        elif draw(rarely(3)):
            keys[name] = draw(st.sampled_from(plain))
        else:
            keys[name] = draw(values_of(option))
    # JSON is YAML, and leaves no doubt about the type of a value.
    return draw(st.sampled_from((*[json.dumps(keys)] * 30, "", "- 1", "a: [", "text", "# nothing")))


@st.composite
def command_lines(draw: st.DrawFn, dialect: Dialect) -> CommandLine:
    """Return a command line of up to eight options, most of them such as the release takes."""
    pieces: list[tuple[str, ...]] = [("--model-path", "model")]
    pieces += draw(st.lists(own_tokens(dialect.options), max_size=5))
    pieces += draw(st.lists(st.sampled_from((*OTHERS[:8] * 4, *OTHERS)), max_size=2))
    files: dict[str, str] = {}
    if dialect.files and draw(rarely(3)):
        name = CONFIG_NAMES[0]
        if draw(rarely(10)):
            name = draw(st.sampled_from(CONFIG_NAMES))
        files[name] = draw(documents(dialect))
        if draw(rarely(20)):
            files.clear()
        two_words = ("--config", name)
        odd = ((f"--config={name}",), ("--conf", name), ("--config",), two_words * 2)
        pieces.append(draw(st.sampled_from((*[two_words] * 20, *odd))))
    if draw(rarely(15)):
        pieces.append((draw(st.sampled_from(ODDITIES)),))
    ordered = draw(st.permutations(pieces))
    return CommandLine(tuple(token for piece in ordered for token in piece), files)

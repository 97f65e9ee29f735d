"""What the user's own SGLang arguments say, in any spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.redaction import is_secret_name, redacted
from sglang_roce_entry.server.spellings import OPTIONS, find_option


def read(*argv: str, config: str | None = None) -> UserArguments:
    def read_file(path: str) -> str:
        if config is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return config

    return read_arguments(argv, read_file)


@pytest.mark.parametrize(
    ("argv", "dest", "value"),
    [
        (("--tp", "16"), "tp_size", "16"),
        (("--tp=16",), "tp_size", "16"),
        (("--tp-size", "16"), "tp_size", "16"),
        (("--tensor-par", "16"), "tp_size", "16"),
        (("--tensor-parallel-size=16",), "tp_size", "16"),
        (("--pp", "2"), "pp_size", "2"),
        (("--nnode", "2"), "nnodes", "2"),
        (("--node-r", "1"), "node_rank", "1"),
        (("--node-rank", "-1"), "node_rank", "-1"),
        (("--dist-init", "h:1"), "dist_init_addr", "h:1"),
        (("--nccl-init-addr", "h:1"), "dist_init_addr", "h:1"),
        (("--enable-dp-attention",), "enable_dp_attention", ""),
        (("--attn-dp-size", "4"), "attn_dp_size", "4"),
        (("--host", "--port"), "host", None),
        # 0.4.3 has no other option that begins so, later ones call it ambiguous.
        (("--dist", "h:1"), "dist_init_addr", "h:1"),
        (("--nccl", "h:1"), "dist_init_addr", "h:1"),
        (("--b", "4"), "base_gpu_id", "4"),
        # argparse takes what has a space in it for a value, unless it begins like one of its options.
        (("--host", "-a b"), "host", "-a b"),
        (("--host", "--a b"), "host", "--a b"),
        (("--host", "--port=1 2"), "host", None),
        (("--tp", "8", "--tensor-parallel-size", "4"), "tp_size", "4"),
        (("--tp-size",), "tp_size", None),
        (("--t", "16"), "tp_size", None),
        (("--attention-backend", "fa3"), "attn_dp_size", None),
        (("--ssl-keyfile", "/k"), "ssl_keyfile_password", None),
        (("--model-path", "--tp"), "tp_size", None),
    ],
)
def test_spellings(argv: tuple[str, ...], dest: str, value: str | None) -> None:
    assert read(*argv).text(dest) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [("16", 16), (" 4 ", 4), ("+4", 4), ("1_6", 16), ("٤", 4), ("030", 30), ("999999999", 999999999)],
)
def test_numbers_are_read_as_sglang_reads_them(text: str, number: int) -> None:
    assert read("--tp", text).number("tp_size", 1) == number


@pytest.mark.parametrize("text", ["", "x", "16.0", "0x10", "1__6", "0", "-1", "1000000000", "9" * 5000])
def test_numbers_that_are_none_or_beyond_all_reason(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a whole number of at least 1"):
        read("--tp", text).number("tp_size", 1)


def test_every_spelling_and_prefix_of_the_table_finds_its_option() -> None:
    for option in OPTIONS:
        for spelling, shortest in option.spellings:
            for length in range(len(shortest), len(spelling) + 1):
                assert find_option(spelling[:length]) is option
            assert find_option(shortest[:-1]) is not option


def test_a_config_file_stands_below_the_command_line() -> None:
    config = "tp-size: 8\nnnodes: 2\nhost: 10.0.0.1\nenable-dp-attention: true\ntrust-remote-code: true\n"
    user = read("--config", "serve.yaml", "--tp", "16", config=config)
    assert (user.text("tp_size"), user.text("nnodes"), user.text("host")) == ("16", "2", "10.0.0.1")
    assert user.attention_dp
    assert user.values["nnodes"].where == "nnodes in serve.yaml"


@pytest.mark.parametrize(
    ("config", "dest", "value"),
    [
        ('{"lora-paths": ["a", "--tp-size", "8"]}', "tp_size", "8"),  # an option inside another's values
        ("tp: 8", "tp_size", "8"),
        ("tp_size: 8", "tp_size", None),
        ("enable-dp-attention: false", "enable_dp_attention", None),
        ("tp-size: [8]", "tp_size", "8"),
        ("tp-size: []", "tp_size", None),
        # 0.5.3 to 0.5.6 drop "no" and refuse "yes"; from 0.5.9 on these are words.
        ("host: yes", "host", "true"),
        ("dist-init-addr: no", "dist_init_addr", "false"),
        ("", "tp_size", None),
        ("dist-init-addr: '[fd00::1]:20000'", "dist_init_addr", "[fd00::1]:20000"),
    ],
)
def test_config_keys(config: str, dest: str, value: str | None) -> None:
    assert read("--config", "x.yml", config=config).text(dest) == value


def test_underscore_keys_are_said() -> None:
    (problem,) = read("--config", "x.yml", config="tp_size: 8").problems
    assert problem.code == "CONFIG_KEY"
    assert "tp-size" in problem.hint


@pytest.mark.parametrize(
    ("argv", "config", "words"),
    [
        (("--config", "x.yaml"), None, "cannot be read"),
        (("--config", "x.json"), "", "does not end in"),
        (("--config",), "", "not followed by a file name"),
        (("--config", "a.yaml", "--config", "b.yaml"), "", "more than once"),
        (("--config", "x.yaml"), "- 1", "not a mapping"),
        (("--config", "x.yaml"), "a: [", "not YAML"),
        (("--config", "x.yaml"), "a: !!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_config_files_that_sglang_would_refuse(argv: tuple[str, ...], config: str | None, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(*argv, config=config)


def test_a_broken_config_file_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as failure:
        read("--config", "x.yaml", config="tp-size: 8\napi-key: sk-12345: 6\n")
    assert "line 2" in failure.value.message
    assert "sk-12345" not in failure.value.message


@pytest.mark.parametrize("argv", [("--config=x.yaml",), ("--conf", "x.yaml")])
def test_config_forms_that_sglang_never_reads(argv: tuple[str, ...]) -> None:
    assert [problem.code for problem in read(*argv).problems] == ["CONFIG_IGNORED"]


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("--api-key", "s"), ("--api-key", "***")),
        (("--api-key=s",), ("--api-key=***",)),
        (("--api", "s", "--tp", "8"), ("--api", "***", "--tp", "8")),
        (("--admin-api-key", "s"), ("--admin-api-key", "***")),
        (("--ssl-keyfile-password", "s"), ("--ssl-keyfile-password", "***")),
        (("--ssl-keyfile", "/key"), ("--ssl-keyfile", "/key")),
        (("--max-total-tokens", "5"), ("--max-total-tokens", "5")),
        (("--watermark-config", "{}"), ("--watermark-config", "***")),
        # SGLang takes the first two for a key and refuses the third; none is to be shown.
        (("--api-key", "--my secret"), ("--api-key", "***")),
        (("--api-key", "-my secret"), ("--api-key", "***")),
        (("--api-key", "--secret"), ("--api-key", "***")),
        # Options that SGLang refuses, whose value is a key all the same.
        (("--hf-token", "s"), ("--hf-token", "***")),
        (("--db_password=s",), ("--db_password=***",)),
        (("--redis-secret", "s", "--tp", "8"), ("--redis-secret", "***", "--tp", "8")),
        (("--tokenizer-path", "/t"), ("--tokenizer-path", "/t")),
        (("--speculative-token-map", "/t"), ("--speculative-token-map", "/t")),
        # Credentials inside a value.
        (("--model-path", "redis://user:s@host:6379/m"), ("--model-path", "redis://***@host:6379/m")),
        (("--model-path=https://:s@h/m",), ("--model-path=https://***@h/m",)),
        (("--model-path", "https://s@h/m"), ("--model-path", "https://***@h/m")),
        (("--model-path", "redis://u:s/s@h/m"), ("--model-path", "redis://***@h/m")),
        (("--model-path", "http://h:80/m@v2"), ("--model-path", "http://h:80/m@v2")),
        (("--model-path", "s3://bucket/m@v2"), ("--model-path", "s3://bucket/m@v2")),
        (("--x", "user:s@host:6379"), ("--x", "***@host:6379")),
        (("--x", "https://h/m?a=1&token=s&b=2"), ("--x", "https://h/m?a=1&token=***&b=2")),
        (("--x", "https://h/m?X-Amz-Signature=s"), ("--x", "https://h/m?X-Amz-Signature=***")),
        (("--x", "host=h password=s user=u"), ("--x", "host=h password=*** user=u")),
        (("--x", "Authorization: Bearer s"), ("--x", "Authorization: ***")),
        (
            ("--json-model-override-args", '{"api_key": "s", "n": 1}'),
            ("--json-model-override-args", '{"api_key": "***", "n": 1}'),
        ),
        (
            ("--x", '{"a": [{"secretKey": "s"}], "url": "redis://u:s@h"}'),
            ("--x", '{"a": [{"secretKey": "***"}], "url": "redis://***@h"}'),
        ),
        (('--x={"credentials": {"a": "s"}}',), ('--x={"credentials": "***"}',)),
        (("--x", '{"eos_token_id": 2, "max_tokens":7}'), ("--x", '{"eos_token_id": 2, "max_tokens":7}')),
        (("--x", "{'access_key': 's', 'n': 1}"), ("--x", "{'access_key': ***, 'n': 1}")),
        (("--x", '{"a": "{\\"token\\": \\"s\\"}"}'), ("--x", '{"a": "{\\"token\\": \\"***\\"}"}')),
        (("--x", '{"secret\\u005fkey": "s"}'), ("--x", '{"secret_key": "***"}')),
    ],
)
def test_secrets_are_hidden(argv: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert redacted(argv) == shown


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("SGLANG_S3_SECRET_KEY", True), ("MOONCAKE_PRIVATE_KEY", True), ("SGLANG_PASSWORD_1", True),
        ("AWS_ACCESS_KEY_ID", True), ("awsSecretKey", True), ("DB_PASSWD", True), ("apiKey", True),
        ("--max-total-tokens", False), ("NCCL_IB_PKEY", False), ("--ssl-keyfile", False), ("tokenizer", False),
        ("monkey", False), ("", False), ("_", False), ("KEY", True),
    ],
)  # fmt: skip
def test_a_name_says_whether_it_is_a_secret(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


@given(st.text(max_size=40))
def test_no_password_of_a_url_is_shown(password: str) -> None:
    plain = "".join(one for one in password if one.isalnum()) + "S3CRET"
    for text in (f"redis://u:{plain}@h:1/m", f'{{"url": "redis://u:{plain}@h"}}', f"http://h/?token={plain}"):
        assert plain not in " ".join(redacted(("--model-path", text)))


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(["--tp", "--", "--api-key", "--config=x", "-1"]))))
def test_any_arguments_are_read_and_shown(argv: list[str]) -> None:
    if "--config" not in argv:
        assert read(*argv).argv == tuple(argv)
    assert len(redacted(tuple(argv))) == len(argv)

"""Canaries: secrets put wherever a command could pick them up appear in nothing that it says or writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import TINY, quantkit
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.cli.redaction import HIDDEN, OF_URLS, PATTERNS, printable, redact

SECRETS = {
    "Hub token": "hf_" + "CaNaRy0123456789" * 2,
    "key of AWS": "AKIA" + "CANARY0123456789",
    "password": "canary-pass-word",
    "signature": "canarySIGNATURE0123",
    "bearer": "canaryBEARER.0123456789",
}
SENTENCES = [
    "token {Hub token} was refused",
    "https://user:{password}@example.org/x.bin",
    "https://{Hub token}@huggingface.co/a/b",
    "GET /x?X-Amz-Signature={signature}&X-Amz-Credential={key of AWS}&a=1",
    "https://cdn/x?token={signature}&expires=3",
    "Authorization: Bearer {bearer}",
    '{{"authorization": "Bearer {bearer}"}}',
    "authorization={bearer}",
    "aws_secret_access_key = {signature}",
    "AWS_SESSION_TOKEN={signature}",
    "key {key of AWS} of the bucket",
    "password: {password}",
    "api_key={bearer}",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_secrets_of_every_form_are_hidden(sentence: str) -> None:
    text = sentence.format(**SECRETS)
    for shown in (redact(text), printable(text), json.loads(redact(json.dumps(text)))):
        assert not [name for name, secret in SECRETS.items() if secret in shown], shown
        assert "***" in shown


PIECES = (
    "hf_", "ghp_", "sk-", "xoxb-", "AKIA", "aws_", "secret_key", "session_token", "authorization", "Bearer ", "basic ",
    "s3://", "user:", "@", "?", "&", "key=", "password", "api-key", "access_token", ": ", "=", "aB3dE6gH9" * 2,
    "A" * 16, " ", "\n", "\u017f", "\u212a", "\u0130",
)  # fmt: skip


@settings(deadline=None)  # the first text compiles patterns
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_a_text_cannot_have_is_not_looked_for_in_vain(text: str) -> None:
    """The same as with every pattern, whatever signs of it a text has."""
    expected = text
    for _, pattern, flags in PATTERNS:
        expected = re.sub(pattern, rf"\g<1>{HIDDEN}", expected, flags=flags)
    assert redact(text) == re.sub(OF_URLS, rf"\g<1>{HIDDEN}@", expected, flags=re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    [
        "blk.0.attn_q.weight q4_k 12/39", "hf://org/name@v1.0", "hf_models/out", "https://huggingface.co/a/b/resolve/main/x",
        "sha256 " + "0123456789abcdef" * 4, "a@b.c", "tokenizer.ggml.bos_token_id = 1  (u32)", "max_position = 3",
        "2026-11-28T06:18:04.707Z INFO    plan begins", 'Basic test', "--keep attn_v=q8_0", "author: someone",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_values_of_the_environment_are_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "of-no-known-form-0123")
    assert redact("x of-no-known-form-0123 y") == "x *** y"


def commands(source: Path, folder: Path, secret: str) -> list[list[object]]:
    """Command lines that fail, or work, with the secret in an argument, a name or a file."""
    return [
        ["convert", f"./{secret}", "--to", "q8_0"],
        ["convert", source, "--to", secret],
        ["convert", source, "--to", "q8_0", "--keep", f"{secret}=q4_0"],
        ["convert", source, "--to", "fp8", "--for", secret],
        ["plan", source, "--to", "q8_0", "--split-max-size", secret],
        ["plan", source, "--fit", secret],
        ["plan", source, "--on-fallback", secret],
        ["plan", f"hf://{secret}/{secret}", "--offline"],
        ["plan", f"https://user:{secret}@huggingface.co/a/b"],
        ["calibrate", source, "--data", folder / f"{secret}.jsonl", "-o", folder / "x.gguf"],
        ["verify", folder / f"{secret}.gguf", "--against", source],
        ["inspect", source],
        ["inspect", folder / secret],
        ["pack", folder / secret, "-o", folder],
        ["recipes", secret],
        ["schemes", "--json-schema", secret],
        ["doctor", folder / secret],
        ["frob", secret],
        ["convert", source, f"--{secret}"],
        ["plan", source, "--to", "q8_0", "-o", folder / secret],
    ]


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_canary_leaves_by_any_way(
    number: int, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = SECRETS["Hub token"]
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    shutil.copytree(TINY, source)
    config = json.loads((source / "config.json").read_text())
    config["_name_or_path"] = f"https://user:{secret}@huggingface.co/a/b"
    config["note"] = {"authorization": f"Bearer {secret}"}
    (source / "config.json").write_text(json.dumps(config))
    log, events = tmp_path / "log.txt", tmp_path / "events.jsonl"
    command = commands(source, tmp_path, secret)[number]
    outcome = quantkit(*command, "--log-file", log, "--events", events, *(["--json"] if as_json else []), "--verbose")
    written = [path.read_text() for path in (log, events) if path.exists()]
    for text in (outcome.stdout, outcome.stderr, *written):
        assert secret not in text
        assert "Traceback" not in text
    if as_json and outcome.stdout:
        json.loads(outcome.stdout)


def test_a_bug_s_traceback_hides_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import quantkit as package

    def broken(folder: Path) -> None:
        raise LookupError(f"GET https://user:{SECRETS['password']}@example.org {SECRETS['Hub token']}")

    monkeypatch.setattr(package, "doctor", broken, raising=False)
    outcome = quantkit("doctor", "--json")
    assert outcome.status == 1
    assert "Traceback" in outcome.stderr
    assert outcome.json["error"]["code"] == "bug"
    for secret in SECRETS.values():
        assert secret not in outcome.stdout + outcome.stderr


def test_nothing_drives_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\u202e"
    for command in (["plan", tmp_path / evil], ["recipes", evil], ["inspect", tmp_path / evil], [evil]):
        outcome = quantkit(*command)
        assert outcome.status in (2, 3)
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(outcome.stdout + outcome.stderr)

"""Files of tiktoken ranks against tiktoken itself, the converter's merges, and llama.cpp."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from oracles.ggml import Model
from reference import REFERENCE
from vocabulary_file import write_vocabulary

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.known import family_named
from quantkit.tokenizer.bpe import byte_alphabet
from quantkit.tokenizer.check import check_tokenizer, rebuild
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MOONSHOT = "|".join((  # as Moonshot publishes it
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
))  # fmt: skip
GLM = (  # as Zhipu publishes it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GLM_SETTINGS = {
    "tokenizer_class": "ChatGLM4Tokenizer",
    "added_tokens_decoder": {
        str(398 + n): {"content": text, "special": True}
        for n, text in enumerate(("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>"))
    },
}
NAMED = {"[BOS]": 398, "[EOS]": 399, "<|im_end|>": 400}  # of Kimi's tokenizer_config.json
FILES = {
    "qwen.tiktoken": ("qwen", SPLIT, "qwen2"), "hy.tiktoken": ("hunyuan_moe", SPLIT, "qwen2"),
    "tiktoken.model": ("deepseek2", MOONSHOT, "kimi-k2"), "tokenizer.model": ("chatglm3", GLM, "llama-bpe"),
}  # fmt: skip
KIMI_SETTINGS = {
    "tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
    "added_tokens_decoder": {str(i): {"content": text, "special": True} for text, i in NAMED.items()},
}  # fmt: skip
SETTINGS = {"tiktoken.model": KIMI_SETTINGS, "tokenizer.model": GLM_SETTINGS}


@cache
def ranks() -> dict[bytes, int]:
    """398 tokens, the single bytes first, in the order in which they were made."""
    alphabet = byte_alphabet()
    vocab = json.loads(checkpoints.bpe_tokenizer())["model"]["vocab"]
    tokens = {bytes(alphabet[c] for c in text): index for text, index in vocab.items()}
    return dict(sorted(tokens.items(), key=lambda pair: pair[1]))


def lines(tokens: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in tokens.items())


def read(file: str, data: bytes, rows: int = 640) -> Tokenizer:
    settings = SETTINGS.get(file, {"tokenizer_class": "Own", "model_max_length": 8192})
    files = {file: data, "tokenizer_config.json": json.dumps(settings).encode()}
    return read_tokenizer(files.get, {"vocab_size": rows}, family_named(FILES[file][0]).tokens)


def values_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in tokenizer.metadata}


@pytest.mark.parametrize("file", FILES)
def test_text_is_split_as_tiktoken_splits_it(file: str, tmp_path: Path) -> None:
    """By the rules of the file's metadata on 2,000 texts, and by llama.cpp on some of them."""
    tiktoken = pytest.importorskip("tiktoken")
    _, pattern, pre = FILES[file]
    theirs = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks(), special_tokens={})
    tokenizer = read(file, lines(ranks()))
    assert tokenizer.pre == pre
    ours = rebuild(tokenizer.metadata, add_special=False)
    texts = [t for t in probes() if "<|" not in t and "[" not in t and unicodedata.normalize("NFC", t) == t]
    assert len(texts) > 1200
    assert [t for t in texts if list(ours(t)) != theirs.encode(t, disallowed_special=())] == []
    few = [text for text in texts if text.isascii()][:200]
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        assert [t for t in few if model.tokenize(t) != theirs.encode(t, disallowed_special=())] == []


@pytest.mark.parametrize("file", FILES)
def test_the_checks_of_a_conversion_hold(file: str) -> None:
    settings = SETTINGS.get(file, {"tokenizer_class": "Own"})
    files = {file: lines(ranks()), "tokenizer_config.json": json.dumps(settings).encode()}
    config = {"vocab_size": 640}
    made = read_tokenizer(files.get, config, family_named(FILES[file][0]).tokens)
    assert check_tokenizer(made.metadata, files.get, config).ok


@pytest.mark.reference
def test_merges_are_those_of_the_converter() -> None:
    """In a process of its own: the converter brings its own gguf package."""
    code = (
        "import json, sys\n"
        f"sys.path[:0] = [{str(REFERENCE)!r}, {str(REFERENCE / 'gguf-py')!r}]\n"
        "from conversion.qwen import QwenModel\n"
        "ranks = {bytes.fromhex(token): rank for token, rank in json.load(sys.stdin).items()}\n"
        "parts = [QwenModel.bpe(ranks, t, max_rank=r) if len(t) > 1 else [] for t, r in ranks.items()]\n"
        "print(json.dumps([' '.join(map(QwenModel.token_bytes_to_string, p)) for p in parts if len(p) == 2]))\n"
    )
    given = json.dumps({token.hex(): rank for token, rank in ranks().items()})
    ran = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    expected = json.loads(ran.stdout.splitlines()[-1])
    assert list(values_of(read("qwen.tiktoken", lines(ranks())))["merges"]) == expected
    assert len(expected) == len(ranks()) - 256


def test_special_tokens_are_those_of_each_model() -> None:
    qwen, hunyuan, kimi, glm = (values_of(read(file, lines(ranks()))) for file in FILES)
    assert qwen["tokens"][398:402] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>")
    assert [qwen[f"{name}_token_id"] for name in ("bos", "eos", "unknown")] == [398] * 3
    assert hunyuan["tokens"][398:404] == (
        "<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|extra_0|>"
    )  # fmt: skip
    assert [hunyuan[f"{name}_token_id"] for name in ("bos", "eos", "padding")] == [400, 401, 402]
    assert kimi["tokens"][398:402] == ("[BOS]", "[EOS]", "<|im_end|>", "<|reserved_token_401|>")
    assert [kimi[f"{name}_token_id"] for name in ("bos", "eos")] == [398, 399]
    assert glm["tokens"][398:405] == tuple(t["content"] for t in GLM_SETTINGS["added_tokens_decoder"].values())
    assert [glm[f"{name}_token_id"] for name in ("eos", "eot", "unknown")] == [398, 404, 398]
    assert set(glm["token_type"][405:]) == {5}
    for values in (qwen, hunyuan, kimi):
        assert set(values["token_type"][:398]) == {1}
        assert set(values["token_type"][398:600]) == {3}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data.replace(b" 300\n", b" 301\n"), "line 301"),
        (lambda data: data.replace(b" 300\n", b"\n"), "line 301"),
        (lambda data: data + data.split(b"\n")[5].split()[0] + b" 398\n", "line 399"),
        (lambda data: b"!!!! 0\n" + data, "line 1"),
        (lambda data: b"".join(data.splitlines(keepends=True)[:200]), "none for the byte"),
    ],
)
def test_a_broken_file_is_named(change: Any, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        read("qwen.tiktoken", change(lines(ranks())))
    assert "qwen.tiktoken" in caught.value.message


def test_ranks_that_no_code_is_known_of_are_named() -> None:
    """A tokenizer.model of ranks is that of GLM-4 alone, and that one's tokens are all listed."""
    listed = GLM_SETTINGS["added_tokens_decoder"]
    fewer = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": {**listed, "410": listed["404"]}}
    for settings, kind, why in (
        ({"tokenizer_class": "Other"}, UnsupportedError, "does not say how text is split"),
        (fewer, InputError, "no token 405"),
    ):
        files = {"tokenizer.model": lines(ranks()), "tokenizer_config.json": json.dumps(settings).encode()}
        with pytest.raises(kind, match=why):
            read_tokenizer(files.get, {"vocab_size": 640}, family_named("chatglm3").tokens)

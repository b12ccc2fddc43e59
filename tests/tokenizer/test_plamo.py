"""PLaMo's vocabulary: its file, what is no token in it, and the same ids from the source, a GGUF file and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_table
import pytest
from commands import quantkit
from oracles import ggml
from plamo_lines import FILE, TOKENS, WORDS, lines

from quantkit.errors import InputError
from quantkit.families.rows import TokenizerRules
from quantkit.formats.gguf.file import read_gguf
from quantkit.tokenizer.check import check_tokenizer
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

RULES = TokenizerRules(own="plamo2", ids={"eot": 4}, named={"unk": "<|plamo:unk|>"})


def read(text: str, rows: int = 400) -> Tokenizer:
    return read_tokenizer({FILE: text.encode("utf-8", "surrogatepass")}.get, {"vocab_size": rows}, RULES)


def entry(found: Tokenizer, name: str) -> Any:
    return next(kv.value for kv in found.metadata if kv.key == f"tokenizer.ggml.{name}")


def test_the_file_holds_pieces_with_scores() -> None:
    found = read(lines())
    tokens, scores, kinds = (entry(found, name) for name in ("tokens", "scores", "token_type"))
    assert (tokens[4], tokens[6], tokens[len(TOKENS)], tokens[399]) == (
        "<|plamo:op|>", "<0x00>", "[PAD1]", f"[PAD{400 - len(TOKENS)}]",
    )  # fmt: skip
    assert (kinds[0], kinds[4], kinds[5], kinds[6], kinds[262], kinds[399]) == (2, 3, 3, 6, 1, 5)
    assert scores[-1] == -1000.0 and scores[262] == -9.5 - 0.125 * (65 % 7)
    assert (entry(found, "unknown_token_id"), entry(found, "eot_token_id")) == (0, 4)


def changed(index: int, line: str) -> str:
    found = lines().splitlines()
    found[index] = line
    return "\n".join(found)


WRONG = {
    "no JSON": (changed(300, "['the'"), "line 301: .* is no list of a text and a number"),
    "no score": (changed(300, '["the"]'), "line 301"),
    "no number": (changed(300, '["the", true]'), "line 301"),
    "no finite number": (changed(300, '["the", 1e999]'), "line 301"),
    "no text": (changed(300, "[1, 2]"), "line 301"),
    "nothing": (changed(300, '["", 2]'), "line 301"),
    "half a character": (changed(300, '["\\ud800", 2]'), "line 301"),
    "deep": (changed(300, "[" * 20000), "line 301"),
    "long": (changed(300, f'["{"x" * (1 << 16)}", 2]'), "line 301"),
    "twice": (changed(300, '["<|plamo:bos|>", 2]'), "are both"),
    "a byte too few": (changed(100, '["x0", 0.0, "NORMAL"]'), "no token for the byte 94"),
    "an empty file": ("", "has 0 tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_file_is_named_with_its_line(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        read(text)


def test_more_tokens_than_rows() -> None:
    with pytest.raises(InputError, match=f"the embedding has {len(TOKENS) - 1} rows"):
        read(lines(), rows=len(TOKENS) - 1)
    with pytest.raises(InputError, match=f"no {FILE}"):
        read_tokenizer({}.get, {"vocab_size": 400}, RULES)


TEXTS = (
    "the thing then thinging", "abcd bcd abc cd", "  hello   it's\n\n", "\u65e5\u672c\u672c\u3042",
    "\u30a2\U0001f600\u00e9",
    "a<|plamo:bos|>b<|plamo:op|><|plamo:begin_fim|>", "0101 x<|plamo:", "\ufeffthe", "",
)  # fmt: skip


def test_source_file_and_llama_cpp_split_alike(tmp_path: Path) -> None:
    folder = family_table.build("plamo-3", tmp_path)
    ran = quantkit("convert", folder, "--to", "bf16", "-o", tmp_path / "out.gguf")  # verified against its source
    assert ran.status == 0, ran.stderr
    config = json.loads((folder / "config.json").read_text())
    files = {path.name: path.read_bytes() for path in folder.iterdir() if "safetensors" not in path.name}
    compared = check_tokenizer(read_gguf(tmp_path / "out.gguf").metadata, files.get, config)
    assert compared.ok and compared.total > 1500
    source = open_source_tokenizer(files.get, config)
    texts = (*TEXTS, *WORDS, *[text for text in probes() if "\0" not in text][:400])
    with ggml.Model(tmp_path / "out.gguf", vocab_only=True) as model:
        for text, ids in zip(texts, source.encode(texts), strict=True):
            assert model.tokenize(text, parse_special=True) == ids, text


def test_another_file_is_seen(tmp_path: Path) -> None:
    metadata, config = read(lines()).metadata, {"vocab_size": 400, "model_type": "plamo2"}
    other = {FILE: changed(len(TOKENS) - 1, '["012", -3.0, "NORMAL"]').encode()}
    assert check_tokenizer(metadata, {FILE: lines().encode()}.get, config).ok
    assert not check_tokenizer(metadata, other.get, config).ok

"""RWKV's vocabulary: its file, the texts that llama.cpp wants, the same ids from the source, a GGUF and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import family_table
import pytest
from commands import quantkit
from oracles import ggml
from world import TOKENS, WORLD, lines

from quantkit.errors import InputError
from quantkit.families.rows import TokenizerRules
from quantkit.formats.gguf.file import read_gguf
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import check_tokenizer
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

FILE = "rwkv_vocab_v20230424.txt"
RULES = TokenizerRules(own="rwkv", ids={"bos": 0, "eos": 0}, named={"eot": "\\n\\n"})
CONFIG = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}


def read(text: str, rows: int = 300) -> Tokenizer:
    return read_tokenizer({FILE: text.encode()}.get, {**CONFIG, "vocab_size": rows}, RULES)


def entries(found: Tokenizer) -> dict[str, KeyValue]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry for entry in found.metadata}


def test_the_file_holds_tokens_as_python_writes_their_bytes() -> None:
    found = entries(read(WORLD))
    tokens, kinds = found["tokens"].value, found["token_type"].value
    assert isinstance(tokens, tuple) and isinstance(kinds, tuple)
    assert (tokens[0], tokens[11], tokens[40], tokens[93], tokens[256], tokens[261], tokens[299]) == (
        "<s>", "\\n", "'", "\\\\", "\\xff", "\\n\\n", "[PAD299]",
    )  # fmt: skip
    assert (kinds[0], kinds[1], kinds[len(TOKENS)], kinds[len(TOKENS) + 1]) == (3, 1, 1, 5)
    assert (found["bos_token_id"].value, found["eos_token_id"].value, found["eot_token_id"].value) == (0, 0, 261)
    assert "pre" not in found and "scores" not in found


def changed(index: int, line: str) -> str:
    found = lines()
    found[index] = line
    return "\n".join(found)


WRONG = {
    "an id out of order": (changed(4, "6 'a' 1"), "line 5: .* is not the token of id 5"),
    "no literal": (changed(4, "5 spam 4"), "line 5: .* is not the token"),
    "code": (changed(4, "5 b'a'.join([]) 1"), "line 5: .* is no text"),
    "another length": (changed(4, "5 'ab' 1"), "line 5: .* has 2 bytes, the line says 1"),
    "nothing": (changed(4, "5 '' 0"), "line 5: .* has 0 bytes"),
    "half a character": (changed(4, "5 '\\ud800' 3"), "line 5: .* whole characters"),
    "twice": (changed(270, "271 'the' 3"), 'are both "the"'),
    "a byte too few": (changed(4, "5 'hello' 5"), "no token for the byte 4"),
    "an empty file": ("", "has 0 tokens"),
    "no paragraph": (changed(260, "261 'xyz' 3"), "no token"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_file_is_named_with_its_line(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        read(text)


def test_more_tokens_than_rows() -> None:
    with pytest.raises(InputError, match="277 tokens, the embedding has 276 rows"):
        read(WORLD, rows=len(TOKENS))
    with pytest.raises(InputError, match=f"no {FILE}"):
        read_tokenizer({}.get, CONFIG, RULES)


TEXTS = (
    "hello hello", "the then  there   thing",
    "it's \"said\" '\"'", "a\n\n\nb\t\t\n", "\u00e9\u65e5\u672c\u3042\U0001f600",
    "\\n", "x<s>y</s>", "",
)  # fmt: skip


def test_source_file_and_llama_cpp_split_alike(tmp_path: Path) -> None:
    folder = family_table.build("rwkv7", tmp_path)
    ran = quantkit("convert", folder, "--to", "bf16", "-o", tmp_path / "out.gguf")  # verified against its source
    assert ran.status == 0, ran.stderr
    assert "--chat-template rwkv-world" in ran.stderr
    config = json.loads((folder / "config.json").read_text())
    files = {FILE: (folder / FILE).read_bytes()}
    metadata = read_gguf(tmp_path / "out.gguf").metadata
    compared = check_tokenizer(metadata, files.get, config)
    assert compared.ok and compared.total > 1500
    source = open_source_tokenizer(files.get, config)
    texts = (*TEXTS, *[text for text in probes() if "\0" not in text][:400])
    with ggml.Model(tmp_path / "out.gguf", vocab_only=True) as model:
        for text, ids in zip(texts, source.encode(texts), strict=True):
            assert model.tokenize(text, parse_special=True) == ids, text


def test_another_file_is_seen(tmp_path: Path) -> None:
    config = {**CONFIG, "model_type": "rwkv7"}
    metadata = read(WORLD).metadata
    other = {FILE: changed(267, "268 'thi' 3").encode()}
    assert check_tokenizer(metadata, {FILE: WORLD.encode()}.get, config).ok
    assert any("token 268" in problem for problem in check_tokenizer(metadata, other.get, config).problems)

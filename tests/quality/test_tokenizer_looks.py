"""The tokenizers of files made from one source are compared with it once, and again as soon as anything differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commands import TINY, quantkit

from quantkit.formats.gguf.file import read_gguf
from quantkit.pipeline.prepare import describe_source
from quantkit.quality.checks.tokenizer import Compared, check_tokenizer
from quantkit.quality.made_gguf import GGUFMade, tokenizer_keys
from quantkit.source import open_source


@pytest.mark.parametrize("key", ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.tokens", "general.name"])
def test_only_files_with_the_same_entries_share_a_comparison(key: str, tmp_path: Path) -> None:
    made = quantkit("convert", TINY, "--to", "q8_0,f16", "-o", tmp_path, "--no-verify", "--json").json["artifacts"]
    files = [read_gguf(Path(one["files"][0]["path"])) for one in made]
    first, second = (file.metadata for file in files)
    source = open_source(str(TINY))
    try:
        compared = Compared(source)
        found = compared.of(first)
        assert found.ok
        assert compared.of(second) is found
        changed = []
        for entry in second:
            if entry.key == key:
                value = {"general.name": "Phi-3", "tokenizer.ggml.eos_token_id": 5}.get(key)
                tokens = [*entry.items()] if value is None else []  # a list: two of its texts change places
                entry = replace(entry, value=value or [*tokens[:300], tokens[301], tokens[300], *tokens[302:]])
            changed.append(entry)
        other = compared.of(changed)
        assert other is not found
        assert other.ok == (key == "general.name")
        expected = tokenizer_keys(describe_source(source).metadata)
        for metadata, ok in ((changed, key == "general.name"), (second, True)):
            seen = GGUFMade((replace(files[1], metadata=metadata),))
            assert check_tokenizer(seen, source, expected, compared=compared).ok == ok
    finally:
        source.close()

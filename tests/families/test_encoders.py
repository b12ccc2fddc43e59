"""Encoders against llama.cpp's converter and transformers, on small random checkpoints (`encoder_table`).

Where the reference is another, and why:
- A BERT that classifies reads its first token through `pooler.dense`: the reference leaves that out, and scores differ.
- Of files of before tokenizer.json it writes no special tokens, and of XLM-RoBERTa's "<mask>" no name.
- XLM-RoBERTa's tokenizer drops repeated spaces; the reference goes by `clean_up_tokenization_spaces`.
- ModernBERT as transformers 5 saves it says norm_eps alone, and the reference no epsilon that llama.cpp reads.
- The pre-tokenizer of these vocabularies is in no table: the reference is told one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checkpoints
import encoder_table
import numpy as np
import pytest
from commands import quantkit
from described import Folder, evaluate
from encoder_table import ENCODERS
from gguf import GGUFReader
from oracles.ggml import Model
from test_families_reference import keys_of_the_description, keys_of_the_file

pytestmark = [pytest.mark.reference, pytest.mark.slow]

PRE = {"bpe": "roberta-bpe", "modern": "modern-bert"}
UNREAD = {  # the reference stops at the head, or at a config.json as transformers saves it
    "modernbert-masked-lm", "nomic-bert-as-saved", "eurobert-masked-lm",
}  # fmt: skip
GGML = "tokenizer.ggml."
FRAME = {f"{GGML}{key}" for key in (
    "add_bos_token", "add_eos_token", "add_sep_token", "bos_token_id", "eos_token_id", "seperator_token_id",
    "unknown_token_id", "mask_token_id", "padding_token_id", "normalizer.lowercase",
)}  # fmt: skip
VOCABULARY = {f"{GGML}{key}" for key in ("tokens", "scores", "token_type")}
DIFFERS: Mapping[str, set[str]] = {
    "wordpiece": {f"{GGML}pre"}, "vocab.txt": {f"{GGML}pre", *FRAME}, "bpe": set(), "modern": set(),
    "unigram": {f"{GGML}remove_extra_whitespaces"}, "sentencepiece": FRAME | VOCABULARY, "t5": FRAME | VOCABULARY,
    "gemma": set(),
}  # fmt: skip
POOLED = {"bert-reranker", "bert-labels"}  # with pooler.dense as cls
TEXTS = (
    "the license of a work",
    "Copyright owners grant you a perpetual right; and 3 more  words: (a) to use, (b) copy.",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints, and beside each what the reference makes of it: NAME.f32.gguf."""
    root = tmp_path_factory.mktemp("encoders")
    jobs = []
    for name, row in ENCODERS.items():
        encoder_table.build(name, root)
        if name not in UNREAD:
            told = json.loads((root / name / "config.json").read_text()) if row.raw else None
            pre = PRE.get(row.tokenizer, "jina-v2-en")
            jobs.append([str(root / name), str(root / f"{name}.f32.gguf"), "f32", pre, told])
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def described(folder: Path) -> Any:
    return Folder(folder).describe_with_tokenizer(PRE.get(ENCODERS[folder.name].tokenizer))


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - UNREAD))
def test_tensors_and_keys_are_those_of_the_reference(made: Path, name: str) -> None:
    reader, model, arrays = GGUFReader(made / f"{name}.f32.gguf"), described(made / name), Folder(made / name).arrays()
    reference = {str(tensor.name): tensor.data for tensor in reader.tensors}
    found = {tensor.name: tensor for tensor in model.tensors}
    assert set(found) - set(reference) == ({"cls.weight", "cls.bias"} if name in POOLED else set())
    assert set(reference) <= set(found)
    for tensor_name, expected in reference.items():
        assert np.array_equal(evaluate(found[tensor_name], arrays), expected), tensor_name
    keys, wanted = keys_of_the_description(model.metadata), keys_of_the_file(reader)
    differ = {key for key in keys.keys() | wanted.keys() if keys.get(key) != wanted.get(key)}
    more = {"general.size_label"} if name in POOLED else set()
    more |= {"modern-bert.attention.layer_norm_epsilon"} if row_lacks_epsilon(name) else set()
    assert differ <= DIFFERS[ENCODERS[name].tokenizer] | more


def row_lacks_epsilon(name: str) -> bool:
    return name.startswith("modernbert") and ENCODERS[name].edit is None


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_llama_cpp_computes_what_transformers_does(made: Path, tmp_path: Path, name: str) -> None:
    """Embeddings point the same way (cosine 0.9999), scores are the same to a thousandth."""
    import torch
    import transformers

    row, out = ENCODERS[name], tmp_path / "made.gguf"
    pre = ["--pre", PRE[row.tokenizer]] if row.tokenizer in PRE else []
    done = quantkit("convert", made / name, "--to", "f32", "-o", out, *pre)
    assert done.status == 0, done.stderr
    if row.model.endswith("Generation") or row.model == "T5EncoderModel" or row.shapes is not None:
        Model(out).close()
        return
    saved = made / name / "saved.config.json"
    own = {"config": getattr(transformers, row.model).config_class.from_json_file(saved)} if row.raw else {}
    whole = getattr(transformers, row.model).from_pretrained(made / name, **own).eval()
    model = whole if row.score else getattr(whole, whole.base_model_prefix, whole)
    with Model(out) as loaded, torch.no_grad():
        for text in TEXTS:
            ids = loaded.tokenize(text, add_special=True, parse_special=True)
            given = model(torch.tensor([ids]))
            if row.score:
                expected = given.logits[0].numpy()
                found = loaded.embedding(ids, pooling=4, size=len(expected))
                assert np.abs(found - expected).max() < 2e-3 * max(1.0, np.abs(expected).max())
                continue
            hidden = given.last_hidden_state[0].numpy()
            expected = hidden[0] if row.pooling == "cls" else hidden.mean(0)
            found = loaded.embedding(ids, pooling=None if row.files else 1)
            assert found @ expected >= 0.9999 * np.linalg.norm(found) * np.linalg.norm(expected)

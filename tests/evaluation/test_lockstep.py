"""The measurement against transformers' own forward, and what it must not depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quantkit.calibration.text.samples import Texts, Tokens
from quantkit.errors import InputError, UsageError
from quantkit.evaluation.corpus import ALL, SECOND_HALF, Corpus, Cutting, cut_texts, read_corpus
from quantkit.evaluation.measure import measure
from quantkit.evaluation.scores import Scores
from quantkit.evaluation.sides import Side, with_tensors
from quantkit.source import Checkpoint, open_source
from quantkit.source.memory import MemoryTensor
from quantkit.tensors import TensorInfo

TINY = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
WEIGHT = "model.layers.1.mlp.down_proj.weight"
DOCUMENTS = (
    "The harbour was quiet in the early morning, and the boats lay so still that their masts were doubled.",
    "import json\n\n\ndef read(path: str) -> dict[str, int]:\n    return json.loads(open(path).read())\n",
    "Yeast eats the sugar in the dough and gives off carbon dioxide. " * 6,
)


def source() -> Checkpoint:
    return open_source(str(TINY))


def corpus(tmp_path: Path, cut: Cutting) -> Corpus:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return read_corpus(source(), (str(file),), cut)


def scaled(factor: float) -> Side:
    checkpoint = source()
    info = checkpoint.tensors()[WEIGHT]
    values = checkpoint.ref(WEIGHT).read(0, info.rows) * np.float32(factor)
    ref = MemoryTensor(TensorInfo(WEIGHT, "F32", info.shape, values.nbytes), values.reshape(info.shape))
    return Side(f"x{factor}", with_tensors(checkpoint, {WEIGHT: ref}))


def by_transformers(factor: float, found: Corpus) -> np.ndarray:
    """Natural log-probabilities of all predictions that count, float64 (t, vocabulary)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    with torch.no_grad():
        model.get_parameter(WEIGHT).mul_(factor)
        whole = [model(torch.from_numpy(b.tokens).long()).logits.double().log_softmax(-1) for b in found.batches]
    rows = [whole[b][r, p] for b, r, p in zip(found.batch, found.row, found.position, strict=True)]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("score", [ALL, SECOND_HALF])
def test_every_number_is_that_of_transformers(tmp_path: Path, score: str) -> None:
    found = corpus(tmp_path, Cutting(window=32, score=score))
    [same, other] = measure(Side("original", source()), [Side("same", source()), scaled(1.5)], found, threads=2)
    p, q = by_transformers(1.0, found), by_transformers(1.5, found)
    at = np.arange(found.tokens), found.target
    assert np.allclose(other.kl, (np.exp(p) * (p - q)).sum(1), rtol=1e-3, atol=1e-6)  # float32 logits
    assert np.allclose(other.reference, p[at], atol=1e-5)
    assert np.allclose(other.other, q[at], atol=1e-5)
    assert np.allclose(other.confidence, np.exp(p.max(1)), atol=1e-5)
    assert np.array_equal(other.agree, p.argmax(1) == q.argmax(1))
    assert np.array_equal(other.right, p.argmax(1) == found.target)
    assert not same.kl.any()
    assert same.agree.all()
    assert [error for _, error in same.errors] == [0.0] * 4
    assert other.errors[0] == ("model.layers.0", 0.0)
    assert all(error > 0.01 for _, error in other.errors[1:])


def numbers(scores: Scores) -> list[np.ndarray]:
    return [scores.kl, scores.reference, scores.other, scores.confidence, np.array([e for _, e in scores.errors])]


def test_threads_and_company_change_nothing(tmp_path: Path) -> None:
    found = corpus(tmp_path, Cutting(window=32))
    original = Side("original", source())
    [alone] = measure(original, [scaled(1.2)], found, threads=1)
    [_, together] = measure(original, [scaled(2.0), scaled(1.2)], found, threads=3)
    for one, other in zip(numbers(alone), numbers(together), strict=True):
        assert np.array_equal(one, other)


def letters(size: int = 256, bos: int | None = 1) -> Tokens:
    return Tokens(lambda text: [2 + ord(c) - 97 for c in text], size, bos)


def test_documents_do_not_see_each_other() -> None:
    texts = Texts(("abcdefg", "xy", "q"), "t", "0")
    found = cut_texts(texts, letters(), Cutting(window=4))
    assert [found.before(n, 0, 9) for n in range(5)] == [[1, 2, 3, 4], [1, 5, 6, 7], [1, 8], [1, 25, 26], [1, 18]]
    assert found.document.tolist() == [0] * 7 + [1] * 2 + [2]
    assert found.target.tolist() == [2, 3, 4, 5, 6, 7, 8, 25, 26, 18]


def test_second_half_is_llama_cpps_rule() -> None:
    texts = Texts(("abcdefg", "hijklmn"), "t", "0")
    found = cut_texts(texts, letters(), Cutting(window=8, score=SECOND_HALF))
    assert found.position.tolist() == [4, 5, 6] * 2
    assert found.target.tolist() == [6, 7, 8, 13, 14, 15]
    assert found.document.tolist() == [0] * 3 + [1] * 3


def test_windows_are_chosen_evenly_and_for_good() -> None:
    starts = ["abcdefgh"[k % 8] + "abcdefgh"[k // 8] for k in range(20)]  # equal documents count once
    texts = Texts(tuple(start + "abcdefgh" * 7 + "abcdef" for start in starts), "t", "0")
    found = cut_texts(texts, letters(), Cutting(window=8, tokens=160))
    again = cut_texts(texts, letters(), Cutting(window=8, tokens=160))
    assert sum(batch.tokens.size for batch in found.batches) <= 20 * 64
    assert len(set(found.document.tolist())) > 8
    assert found.token_sha256 == again.token_sha256


@pytest.mark.parametrize(
    ("cut", "key"), [(Cutting(score="half"), "score"), (Cutting(window=2), "window"), (Cutting(tokens=1), "tokens")]
)
def test_cuttings_that_make_no_sense(cut: Cutting, key: str) -> None:
    with pytest.raises(UsageError) as error:
        cut.check()
    assert error.value.key == key


@pytest.mark.parametrize("documents", [("",), ("a",)])
def test_text_without_a_prediction(documents: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="too little text"):
        cut_texts(Texts(documents, "t", "0"), letters(bos=None), Cutting())


def test_a_token_without_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="token 3, the embedding has 3 rows"):
        cut_texts(Texts(("ab",), "t", "0"), letters(size=3), Cutting())


def test_a_model_of_other_sizes_is_refused(tmp_path: Path) -> None:
    found = corpus(tmp_path, Cutting(window=32))
    small = source()
    config = {**small.config, "num_hidden_layers": 3}
    tensors = {n: small.ref(n).read(0, i.rows).reshape(i.shape) for n, i in small.tensors().items() if ".3." not in n}
    from quantkit.source.memory import MemoryCheckpoint

    other = Side("other", MemoryCheckpoint(config, tensors))
    with pytest.raises(InputError, match=r"other has 3 blocks, original has 4"):
        measure(replace(Side("original", small)), [other], found, threads=1)

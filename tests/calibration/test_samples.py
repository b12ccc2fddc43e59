"""Windows of tokens: which ones, and that the record knows them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from quantkit.calibration.text.samples import Texts, Tokens, samples_of, select_samples, widened, widening, with_random
from quantkit.errors import InputError

TEXTS = Texts(("abcdefghij" * 3, "XYZ", "abcdefghij" * 2), "letters.jsonl", "0" * 64)
TOKENS = Tokens(lambda text: [ord(c) for c in text], size=128, bos=1)


def letters(row: np.ndarray) -> str:
    return "".join(chr(c) for c in row)


def test_windows_are_consecutive_pieces_with_bos_first() -> None:
    """As llama-imatrix cuts a file: BOS replaces the first token of each window, and stands before each document."""
    samples = select_samples(TEXTS, TOKENS, seqlen=8)
    stream = "\1" + "abcdefghij" * 3 + "\1XYZ\1" + "abcdefghij" * 2
    assert samples.tokens.dtype == np.int32
    assert [letters(row) for row in samples.tokens] == [
        "\1" + stream[start + 1 : start + 8] for start in range(0, len(stream) - 7, 8)
    ]
    assert samples.record.windows == len(stream) // 8 == 7
    assert samples.record.tokens == 56


def test_a_template_that_writes_bos_gets_no_second_one() -> None:
    tokens = Tokens(lambda text: [1, 5, 6, 7], size=8, bos=1)
    assert select_samples(TEXTS, tokens, seqlen=4).tokens.tolist() == [[1, 5, 6, 7]] * 3


def test_without_bos_a_separator_stands_between_documents() -> None:
    tokens = replace(TOKENS, bos=None, separator=2)
    found = select_samples(TEXTS, tokens, seqlen=5)
    assert letters(found.tokens.ravel()) == "abcdefghij" * 3 + "\2XYZ\2" + "abcdefghij" * 2
    joined = select_samples(TEXTS, replace(tokens, separator=None), seqlen=53)
    assert letters(joined.tokens.ravel()) == "abcdefghij" * 3 + "XYZ" + "abcdefghij" * 2


def test_the_choice_is_that_of_the_hash_and_nothing_else() -> None:
    everything = select_samples(TEXTS, TOKENS, seqlen=4)
    chosen = select_samples(TEXTS, TOKENS, seqlen=4, samples=5, seed=3)
    ranked = sorted(range(everything.record.windows), key=lambda n: hashlib.sha256(f"3:{n}".encode()).digest())
    assert chosen.record.ids == tuple(sorted(ranked[:5]))
    assert np.array_equal(chosen.tokens, everything.tokens[list(chosen.record.ids)])
    np.random.seed(7)  # noqa: NPY002  (what must not matter)
    again = select_samples(TEXTS, TOKENS, seqlen=4, samples=5, seed=3)
    assert np.array_equal(again.tokens, chosen.tokens)
    assert again.record == chosen.record
    assert select_samples(TEXTS, TOKENS, seqlen=4, samples=5, seed=4).record.ids != chosen.record.ids


def test_more_samples_than_windows_takes_all() -> None:
    assert len(select_samples(TEXTS, TOKENS, seqlen=8, samples=1000).tokens) == 7


def test_the_record_tells_runs_apart_and_holds_no_text() -> None:
    record = select_samples(TEXTS, TOKENS, seqlen=8).record
    assert record.digest == replace(record, name="elsewhere.jsonl").digest
    for change in ({"sha256": "1" * 64}, {"seqlen": 9}, {"ids": (0, 1)}, {"seed": 1}, {"rendered": True}):
        assert record.digest != replace(record, **change).digest
    assert "abc" not in json.dumps(asdict(record))


def test_parts_know_their_place() -> None:
    samples = select_samples(TEXTS, TOKENS, seqlen=4, samples=6, seed=1)
    part = samples.part(2, 5).part(1, 3)
    assert np.array_equal(part.tokens, samples.tokens[3:5])
    assert part.start == 3
    assert part.id_at(1) == samples.record.ids[4]
    assert part.record == samples.record


def test_repeats_are_counted() -> None:
    texts = Texts(("abcabcabc", "abcabcabc", "xyz"), "t", "0" * 64)
    record = select_samples(texts, replace(TOKENS, bos=None), seqlen=3).record
    assert (record.documents, record.repeated_documents) == (3, 1)
    assert record.repeated == 5  # seven windows of which two are different
    assert record.median_tokens == 9


@pytest.mark.parametrize(
    ("texts", "tokens", "seqlen", "message"),
    [
        (TEXTS, TOKENS, 57, "letters.jsonl has 56 tokens in 3 documents, one sequence takes 57"),
        (Texts((), "empty", ""), TOKENS, 4, "has 0 tokens in 0 documents"),
        (TEXTS, TOKENS, 1, "at least 2 tokens"),
        (TEXTS, replace(TOKENS, size=100), 4, "gives token 100, the embedding has 100 rows"),
        (TEXTS, Tokens(lambda text: [-1], size=9), 4, "gives token -1"),
    ],
)
def test_what_cannot_be_cut_is_an_error(texts: Texts, tokens: Tokens, seqlen: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_samples(texts, tokens, seqlen=seqlen)


def test_given_windows_are_taken_as_they_are() -> None:
    windows = np.arange(12, dtype=np.int32).reshape(3, 4)
    samples = samples_of(windows)
    assert np.array_equal(samples.tokens, windows)
    assert samples.record.ids == (0, 1, 2)
    assert samples.record.digest != samples_of(windows + 1).record.digest


@pytest.mark.parametrize("middle", [None, (3, 4)])
def test_chosen_windows_are_text_by_themselves(middle: tuple[int, int] | None) -> None:
    """Of these, and of a part of them; what is read by an encoder stays that."""
    samples = select_samples(TEXTS, replace(TOKENS, middle=middle), seqlen=8)
    found = samples.part(1, len(samples.tokens)).chosen([0, 2])
    assert np.array_equal(found.tokens, samples.tokens[[1, 3]])
    assert found.record.ids == (samples.record.ids[1], samples.record.ids[3])
    assert found.documents == (samples.documents[1], samples.documents[3])
    assert found.record.tokens == 16
    assert found.first == samples.first == (0 if middle is None else 4)
    assert found.record.token_sha256 == samples_of(found.tokens).record.token_sha256


@pytest.mark.parametrize("bos", [None, 1])
def test_random_windows_come_behind_and_say_a_little_of_everything(bos: int | None) -> None:
    samples = select_samples(TEXTS, replace(TOKENS, bos=bos), seqlen=8)
    count = len(samples.tokens)
    wider = with_random(samples, 50, 40 * count)
    assert wider.tokens.dtype == np.int32
    assert np.array_equal(wider.tokens[:count], samples.tokens)
    drawn = wider.tokens[count:]
    assert drawn.shape == (40 * count, 8)
    kinds, frequency = np.unique(drawn[:, 1:], return_counts=True)
    assert set(kinds) == set(range(50))
    assert frequency.max() <= 3 * frequency.min()
    if bos is not None:
        assert (drawn[:, 0] == bos).all()
    assert wider.record.ids == (*samples.record.ids, *range(samples.record.windows, wider.record.windows))
    assert wider.record.tokens == wider.tokens.size
    assert wider.record.digest != samples.record.digest
    assert np.array_equal(with_random(samples, 50, 40 * count).tokens, wider.tokens)
    assert np.array_equal(with_random(samples, 50, count).tokens, wider.tokens[: 2 * count])


@pytest.mark.parametrize(("windows", "shipped", "random", "others"), [
    (128, 60, 16, 48), (128, 16, 16, 16), (128, 3, 29, 3), (128, None, 32, 0), (9, 4, 2, 3), (4, 1, 1, 1), (2, 1, 1, 0),
])  # fmt: skip
def test_half_as_many_more_are_random_tokens_and_the_shipped_text(
    windows: int, shipped: int | None, random: int, others: int
) -> None:
    samples = samples_of(np.zeros((windows, 8), np.int32))
    other = None if shipped is None else samples_of(np.full((shipped, 8), 7, np.int32))
    wider = widened(samples, 50, other)
    assert widening(windows, other) == (random, others)
    assert len(wider.tokens) == windows + random + others
    assert np.array_equal(wider.tokens[:windows], samples.tokens)
    assert (wider.tokens == 7).all(1).sum() == others
    assert len(set(wider.record.ids)) == len(wider.tokens)
    assert wider.record.token_sha256 != with_random(samples, 50, random).record.token_sha256 or not others


def test_windows_to_judge_by_share_no_document_with_the_others() -> None:
    """Documents of 30 tokens in windows of 8: what holds something of the first judged document is left out."""
    texts = Texts(tuple(" ".join(f"{number}" for _ in range(30)) for number in range(8)), "numbers", "0" * 64)
    tokens = Tokens(lambda text: [int(word) for word in text.split()], 100)
    samples = select_samples(texts, tokens, seqlen=8)
    learned, judged, apart = samples.apart(7)
    assert apart
    assert len(judged.tokens) == 7
    assert not set(learned.tokens.ravel()) & set(judged.tokens.ravel())
    after = samples.tokens[len(learned.tokens)]
    assert set(after) & set(judged.tokens.ravel()), "no more are left out than have to be"
    one = replace(texts, documents=(" ".join(texts.documents),))
    whole, last, apart = select_samples(one, tokens, seqlen=8).apart(7)
    assert not apart, "of one document"
    assert (len(whole.tokens), len(last.tokens)) == (23, 7)

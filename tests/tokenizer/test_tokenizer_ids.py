"""The proof: what is written makes llama.cpp split text as the source's own tokenizer does, on 2,000 probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from oracles.ggml import ATTR_CONTROL, ATTR_NORMAL, ATTR_USER_DEFINED, Model
from tokenizer_kinds import KINDS, Kind, added, dumped, kind, llama_spm, section, tinyllama_json
from tokenizers import Tokenizer as Library
from vocabulary_file import write_vocabulary

from quantkit.tokenizer.check import check_tokenizer, comparable_probes
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.pre_table import LLAMA_CPP, RECOGNIZED, Recognized
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

# std::regex, which llama.cpp uses for the patterns of these, needs 20 s for the probes; see the slow tests.
CASED = {"phi4_mini", "mistral_nemo"}
WITH_MODEL = {"llama_spm", "llama_spm_model_only", "phi3", "gemma2", "gemma3"}  # sentencepiece is the truth
FAST = sorted(set(KINDS) - CASED)


@dataclass(frozen=True)
class Loaded:
    kind: Kind
    tokenizer: Tokenizer
    model: Model

    def ids(self, text: str, *, add_special: bool = True) -> list[int]:
        return self.model.tokenize(text, add_special=add_special, parse_special=True)


def read(kind: Kind) -> Tokenizer:
    return read_tokenizer(kind.read_file, kind.config, kind.rules)


def load(kind: Kind, folder: Path) -> Loaded:
    tokenizer = read(kind)
    path = write_vocabulary(folder / "vocabulary.gguf", tokenizer.metadata)
    return Loaded(kind, tokenizer, Model(path, vocab_only=True))


@pytest.fixture(scope="module", params=FAST)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    found = load(kind(request.param), tmp_path_factory.mktemp(request.param))
    yield found
    found.model.close()


def assert_ids_equal(loaded: Loaded, texts: tuple[str, ...]) -> None:
    encode = open_source_tokenizer(loaded.kind.read_file, loaded.kind.config).encoder()
    wrong = [(text, loaded.ids(text), encode(text)) for text in texts if loaded.ids(text) != encode(text)]
    assert not wrong, f"{len(wrong)} of {len(texts)}, first {wrong[0]}"


def test_llama_cpp_splits_all_probes_as_the_source_does(loaded: Loaded) -> None:
    texts = comparable_probes(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert len(texts) == 2000 or loaded.tokenizer.warnings[0][0] == "tokenizer-space-prefix"
    assert_ids_equal(loaded, texts)


@pytest.mark.parametrize("loaded", sorted(set(FAST) - WITH_MODEL), indirect=True)
def test_whole_texts_are_split_as_the_tokenizers_library_does(loaded: Loaded) -> None:
    """Without this project's rule for special tokens in text: nothing but the library and llama.cpp."""
    library = Library.from_str(loaded.kind.files["tokenizer.json"].decode())
    texts = comparable_probes(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert [text for text in texts if loaded.ids(text) != library.encode(text).ids] == []


def test_only_a_shared_space_and_patterns_with_case_leave_probes_out(loaded: Loaded) -> None:
    texts = comparable_probes(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert (len(texts) == 2000) != (loaded.kind is kind("llama_json_v5"))
    assert len(texts) > 1500


def test_the_rebuilt_encoder_agrees(loaded: Loaded) -> None:
    compared = check_tokenizer(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert compared.ok, compared
    assert compared.total + compared.left_out >= 2000


def test_llama_cpp_sees_every_token_as_written(loaded: Loaded) -> None:
    values = {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in loaded.tokenizer.metadata}
    assert loaded.model.n_vocab == loaded.tokenizer.vocab_size == loaded.kind.config["vocab_size"]
    assert loaded.model.vocab_type == (1 if loaded.tokenizer.kind == "spm" else 2)
    for name, index in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("pad", "padding_token_id")):
        if index in values:
            assert loaded.model.special(name) == values[index]
    if "add_bos_token" in values:
        assert loaded.model.add_bos == values["add_bos_token"]
    assert loaded.model.add_eos == values.get("add_eos_token", False)
    tokens, types = values["tokens"], values["token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    attributes = {1: ATTR_NORMAL, 3: ATTR_CONTROL, 4: ATTR_USER_DEFINED}
    for index in range(0, len(tokens), 7):
        found = loaded.model.token(index)
        assert found.text.decode() == tokens[index]
        if types[index] in attributes and "<" not in tokens[index]:  # llama.cpp has ideas of its own about <|names|>
            assert found.attr == attributes[types[index]]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASED))
def test_patterns_with_case_agree_where_llama_cpp_can(name: str, tmp_path: Path) -> None:
    """llama.cpp has no classes of capital and small letters or marks: such probes are left out, and reported."""
    loaded = load(kind(name), tmp_path)
    texts = comparable_probes(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert 1300 < len(texts) < 1500
    assert_ids_equal(loaded, texts)
    assert [code for code, _ in loaded.tokenizer.warnings] == ["pre-tokenizer"]
    compared = check_tokenizer(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert (compared.ok, compared.total) == (True, len(texts)), compared
    loaded.model.close()


UNCASED = [row for row in RECOGNIZED if row.name not in {"gpt-4o", "tekken"}]


@pytest.mark.slow
@pytest.mark.parametrize("row", UNCASED, ids=[row.name for row in UNCASED])
def test_every_recognized_section_is_split_alike_under_its_name(row: Recognized, tmp_path: Path) -> None:
    from tokenizer_kinds import byte_level, config, size_of

    whole = row.whole_words is not None
    raw = byte_level(section(row), ["<|endoftext|>"], ignore_merges=whole)
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped({"tokenizer_class": "PreTrainedTokenizerFast"}),
        "config.json": config("LlamaForCausalLM", "llama", size_of(raw)),
    }
    loaded = load(Kind("llama", "LlamaForCausalLM", files), tmp_path)
    assert loaded.tokenizer.pre == (row.whole_words or row.name)
    assert loaded.tokenizer.pre_found_by == "pattern"
    assert LLAMA_CPP[loaded.tokenizer.pre].whole_words == whole
    texts = comparable_probes(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert len(texts) == 2000 or (row.differs and len(texts) > 1300)
    assert_ids_equal(loaded, texts)
    loaded.model.close()


def test_a_tokenizer_json_that_puts_no_space_first_is_split_alike(tmp_path: Path) -> None:
    """As Gemma's: llama.cpp puts one unless the file says otherwise, and the reference does not say it."""
    made = tinyllama_json()
    replace_only = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    loaded = load(
        made.but(tokenizer__json=dumped({**made.parsed("tokenizer.json"), "normalizer": replace_only})), tmp_path
    )
    assert_ids_equal(loaded, probes())
    loaded.model.close()


def test_added_runs_of_spaces_that_merges_make_stay_ordinary(tmp_path: Path) -> None:
    """Gemma lists its runs as added tokens, but in text with plain spaces it is merges that make them."""
    made = tinyllama_json()
    raw = made.parsed("tokenizer.json")
    ids = raw["model"]["vocab"]
    runs = ("▁▁", "▁▁▁▁", "▁▁▁▁▁▁▁▁")
    raw["added_tokens"] += [added(ids[run], run, special=False) for run in runs if run in ids]
    assert len(raw["added_tokens"]) > 4
    raw["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    loaded = load(made.but(tokenizer__json=dumped(raw)), tmp_path)
    assert_ids_equal(loaded, probes())
    loaded.model.close()


def test_whole_words_that_no_merge_makes_are_taken_alike(tmp_path: Path) -> None:
    made = kind("llama3")
    raw = made.parsed("tokenizer.json")
    raw["model"]["merges"] = raw["model"]["merges"][:600]
    loaded = load(made.but(tokenizer__json=dumped(raw)), tmp_path)
    assert_ids_equal(loaded, probes())
    compared = check_tokenizer(loaded.tokenizer.metadata, loaded.kind.read_file, loaded.kind.config)
    assert (compared.ok, compared.total) == (True, 2000), compared
    loaded.model.close()


def test_u2581_in_text_is_a_space_to_sentencepiece_and_llama_cpp(tmp_path: Path) -> None:
    loaded = load(llama_spm(), tmp_path)
    assert_ids_equal(loaded, ("▁", "▁▁", "a▁b", "▁a", " ▁", "a ▁▁ b"))
    loaded.model.close()


def test_text_that_nfc_changes_is_the_documented_difference(tmp_path: Path) -> None:
    loaded = load(kind("qwen2"), tmp_path)
    encode = open_source_tokenizer(loaded.kind.read_file, loaded.kind.config).encoder()
    decomposed = "cafe\u0301"
    assert loaded.ids(decomposed) != encode(decomposed)
    assert loaded.ids("café") == encode("café")
    assert "tokenizer-normalizer" in dict(loaded.tokenizer.warnings)
    loaded.model.close()


def test_tokens_that_take_the_spaces_beside_them_are_reported(tmp_path: Path) -> None:
    made = kind("qwen2")
    raw = made.parsed("tokenizer.json")
    raw["added_tokens"][0] = added(raw["added_tokens"][0]["id"], "<|endoftext|>", rstrip=True)
    loaded = load(made.but(tokenizer__json=dumped(raw)), tmp_path)
    library = Library.from_str(dumped(raw).decode())
    text = "a<|endoftext|>  b"
    assert loaded.ids(text) != library.encode(text).ids
    assert any("<|endoftext|>" in message for code, message in loaded.tokenizer.warnings if code == "tokenizer-added")
    loaded.model.close()


def test_bos_is_not_added_when_the_source_adds_none(tmp_path: Path) -> None:
    """llama.cpp adds one under this pre-tokenizer's name unless the file says otherwise."""
    made = kind("llama3")
    raw = {**made.parsed("tokenizer.json"), "post_processor": None}
    loaded = load(made.but(tokenizer__json=dumped(raw)), tmp_path)
    assert loaded.tokenizer.pre == "llama-bpe"
    assert loaded.model.add_bos is False
    assert_ids_equal(loaded, probes()[:200])
    loaded.model.close()

"""The pre-tokenizer: the table against llama.cpp's source, and how a name is found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from oracles.ggml import Model
from real_folders import REALITY, needs_reality
from reference import REFERENCE
from tokenizer_kinds import BYTE_LEVEL, GPT2_BYTE_LEVEL, Kind, dumped, kind, section, split, steps_of
from tokenizers import Tokenizer as Library
from vocabulary_file import write_vocabulary

from quantkit.errors import InputError, UnsupportedError, UsageError
from quantkit.tokenizer.check import rebuild
from quantkit.tokenizer.pre import recognize, split_steps
from quantkit.tokenizer.pre_hashes import HASHES
from quantkit.tokenizer.pre_table import ANY_CASE, CONTRACTIONS, LLAMA_CPP, RECOGNIZED
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

# Names whose splitting llama.cpp has no pattern for, or one that stands for code; the table says it in its own words.
OWN_CODE = {"superbpe", "kimi-k2"}
OTHER_WORDS = {"afmoe", "tiny_aya", "cohere2moe", "deepseek-llm"}
NOT_BYTE_LEVEL = {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"}


def read(made: Kind, pre: str | None = None) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules, pre=pre)


def with_section(pre_tokenizer: Any) -> Kind:
    made = kind("phi4")
    return made.but(tokenizer__json=dumped({**made.parsed("tokenizer.json"), "pre_tokenizer": pre_tokenizer}))


def cxx_strings(code: str) -> tuple[str, ...]:
    uncommented = re.sub(r"^\s*//.*$", "", code, flags=re.MULTILINE)
    literals = re.findall(r'"((?:[^"\\]|\\.)*)"', uncommented)
    return tuple(text.encode().decode("unicode_escape").encode("latin-1").decode() for text in literals)


def between(text: str, start: str, stop: str) -> str:
    return text[text.index(start) : text.index(stop)]


def escaped(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(pattern.replace("\r", r"\r").replace("\n", r"\n") for pattern in patterns)


@pytest.mark.reference
def test_the_table_is_llama_cpps() -> None:
    """Names, patterns and settings, as src/llama-vocab.cpp has them."""
    source = (REFERENCE / "src" / "llama-vocab.cpp").read_text()
    cases = between(source, "switch (vocab.get_pre_type())", "std::vector<std::string> regex_exprs;")
    patterns: dict[str, tuple[str, ...]] = {}
    labels: list[str] = []
    found = re.finditer(r"case LLAMA_VOCAB_PRE_TYPE_(\w+):|(default):|regex_exprs = \{(.*?)\n\s*\};", cases, re.DOTALL)
    for match in found:
        if match[3] is None:
            labels.append((match[1] or match[2]).upper())
        else:
            patterns |= dict.fromkeys(labels, cxx_strings(match[3]))
            labels = []
    names = between(source, "for now, only BPE models have pre-tokenizers", "unknown pre-tokenizer type")
    seen = set()
    for branch in re.split(r"\} else if \(", names):
        kind_of = re.search(r"pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+)", branch)
        for name in re.findall(r'tokenizer_pre == "([^"]+)"', branch):
            seen.add(name)
            if name in NOT_BYTE_LEVEL:
                assert name not in LLAMA_CPP
                continue
            assert kind_of
            row = LLAMA_CPP[name]
            assert row.whole_words == ("ignore_merges = true" in branch), name
            assert row.adds_bos == ("add_bos = true" in branch), name
            if name in OWN_CODE:
                # of Kimi it has the published pattern, with which tiktoken is compared beside it
                assert row.patterns == () or name == "kimi-k2"
            elif name in OTHER_WORDS:
                assert len(row.patterns) == len(patterns[kind_of[1]])
            else:
                assert escaped(row.patterns) == escaped(patterns[kind_of[1]]), name
    assert seen - NOT_BYTE_LEVEL == set(LLAMA_CPP)


@pytest.mark.reference
def test_the_hashes_are_the_references() -> None:
    source = (REFERENCE / "conversion" / "base.py").read_text()
    pairs = re.findall(r'if chkhsh == "([0-9a-f]{64})":\n(?:\s*#.*\n)*\s*res = "([^"]+)"', source)
    assert len(pairs) > 90
    others = {"bert-bge", "bert-bge-large", "jina-v2-en", *NOT_BYTE_LEVEL}
    assert {h: name for h, name in pairs if name not in others} == HASHES
    assert set(HASHES.values()) <= set(LLAMA_CPP)


@pytest.mark.parametrize("row", RECOGNIZED, ids=[row.name for row in RECOGNIZED])
def test_every_row_is_recognized_and_names_exist(row: Any) -> None:
    assert recognize(section(row)) is row
    assert {row.name, row.whole_words or row.name} <= set(LLAMA_CPP)


def test_equal_sections_in_other_words_are_recognized() -> None:
    nested = steps_of("qwen2")
    nested["pretokenizers"] = [{"type": "Sequence", "pretokenizers": nested["pretokenizers"]}]
    pattern = steps_of("qwen2")["pretokenizers"][0]["pattern"]["Regex"]
    dropped = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    spelled = pattern.replace(ANY_CASE, CONTRACTIONS).replace(r"\r", "\r").replace(r"\n", "\n")
    for other in (
        nested,
        {"type": "Sequence", "pretokenizers": [dropped, BYTE_LEVEL]},
        split(spelled),
        split(pattern.replace(r"|\p{N}|", r"|\p{N}{1}|")),
    ):
        assert read(with_section(other)).pre == "qwen2"
    assert read(with_section(GPT2_BYTE_LEVEL)).pre == "gpt-2"
    assert recognize({"type": "ByteLevel"}) is recognize(GPT2_BYTE_LEVEL)


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"type": "Sequence", "pretokenizers": []},
        {**GPT2_BYTE_LEVEL, "add_prefix_space": True},
        BYTE_LEVEL,
        {"type": "Whitespace"},
        split(r"\p{L}+|\p{N}"),
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, GPT2_BYTE_LEVEL]},
        {"type": "Sequence", "pretokenizers": steps_of("qwen2")["pretokenizers"][:1]},
        {"type": "Sequence", "pretokenizers": [
            {**steps_of("qwen2")["pretokenizers"][0], "behavior": "MergedWithNext"}, BYTE_LEVEL,
        ]},
        {"type": "Sequence", "pretokenizers": [
            {**steps_of("qwen2")["pretokenizers"][0], "invert": True}, BYTE_LEVEL,
        ]},
    ],
)  # fmt: skip
def test_an_unknown_section_is_an_error_that_shows_it(other: Any) -> None:
    with pytest.raises(UnsupportedError, match="unknown pre-tokenizer") as caught:
        read(with_section(other))
    assert "--pre NAME" in str(caught.value.hint)
    assert caught.value.key == "pre_tokenizer"
    assert str((other or {}).get("type", "null")) in caught.value.message


def test_the_users_choice_wins() -> None:
    chosen = read(with_section({"type": "Whitespace"}), pre="qwen2")
    assert (chosen.pre, chosen.pre_found_by, chosen.warnings) == ("qwen2", "option", ())
    against = read(kind("phi4"), pre="gpt-2")
    assert against.pre == "gpt-2"
    assert any('"dbrx"' in message for _, message in against.warnings)
    alike = read(kind("phi4"), pre="smaug-bpe")
    assert (alike.pre, alike.warnings) == ("smaug-bpe", ())


def test_an_unknown_choice_is_a_usage_error_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match='did you mean "llama-bpe"'):
        read(kind("phi4"), pre="llama-bp")
    with pytest.raises(UsageError, match=r'--pre "[^"]*" is unknown') as caught:
        read(kind("phi4"), pre="gemma4")
    assert "qwen2" in str(caught.value.hint)


def test_a_choice_for_sentencepiece_is_reported_to_have_no_effect() -> None:
    tokenizer = read(kind("llama_spm"), pre="qwen2")
    assert tokenizer.pre == "default"
    assert any("--pre qwen2 has no effect" in message for _, message in tokenizer.warnings)


@pytest.mark.parametrize(("ignore_merges", "name"), [(False, "dbrx"), (True, "llama-bpe")])
def test_whole_words_decide_between_names_that_split_alike(ignore_merges: bool, name: str) -> None:
    raw = kind("phi4").parsed("tokenizer.json")
    raw["model"]["ignore_merges"] = ignore_merges
    tokenizer = read(kind("phi4").but(tokenizer__json=dumped(raw)))
    assert (tokenizer.pre, tokenizer.pre_found_by, tokenizer.warnings) == (name, "pattern", ())


def _llama3(*, whole: bool, bos: bool) -> dict[str, Any]:
    """A tokenizer.json with a token that a merge makes, but not of its own text: "qz" + "x", where "zx" comes first."""
    raw = kind("llama3").parsed("tokenizer.json")
    vocab, merges = raw["model"]["vocab"], raw["model"]["merges"]
    last = list(vocab)[-3:]
    ids = [vocab.pop(text) for text in last]
    vocab.update(zip(("qz", "zx", "qzx"), ids, strict=True))
    alive = [merge for merge in map(_parts, merges) if {*merge, "".join(merge)} <= vocab.keys()]
    raw["model"]["merges"] = [["z", "x"], ["q", "z"], ["qz", "x"], *alive]
    raw["model"]["ignore_merges"] = whole
    if not bos:
        raw["post_processor"] = BYTE_LEVEL
    return raw


def _parts(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("hashed", ["llama-bpe", "smaug-bpe", "falcon3", "dbrx", None])
def test_names_that_share_a_pattern_are_told_apart_by_whole_words(
    hashed: str | None, whole: bool, bos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantkit.tokenizer.pre._by_hash", lambda data: hashed)
    data = dumped(_llama3(whole=whole, bos=bos))
    tokenizer = read(kind("llama3").but(tokenizer__json=data))
    library = Library.from_str(data.decode())
    assert LLAMA_CPP[tokenizer.pre].whole_words is whole
    ids = library.encode("qzx", add_special_tokens=False).ids
    assert (len(ids) == 1) == whole
    assert rebuild(tokenizer.metadata, add_special=False)("qzx") == ids
    assert {e.key: e.value for e in tokenizer.metadata}["tokenizer.ggml.add_bos_token"] is bos
    assert not [message for code, message in tokenizer.warnings if code == "pre-tokenizer"]


def test_the_hash_names_a_vocabulary_to_which_whole_words_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference does; the file splits alike under either name."""
    monkeypatch.setattr("quantkit.tokenizer.pre._by_hash", lambda data: "smaug-bpe")
    assert read(kind("llama3")).pre == "smaug-bpe"


@needs_reality
def test_llama_3_as_first_published_is_llama_bpe(tmp_path: Path) -> None:
    """588 of its words are not made by merging, " Việt" among them."""
    folder = REALITY / "llama3-8b"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    tokenizer = read(Kind("llama", "LlamaForCausalLM", files))
    assert (tokenizer.pre, tokenizer.warnings) == ("llama-bpe", ())
    assert {e.key: e.value for e in tokenizer.metadata}["tokenizer.ggml.add_bos_token"] is False
    with Model(write_vocabulary(tmp_path / "v.gguf", tokenizer.metadata), vocab_only=True) as model:
        assert model.tokenize(" Việt nhiều", add_special=True) == [101798, 100937]


def test_tokens_that_no_merge_makes_are_reported_when_whole_words_matter() -> None:
    raw = kind("qwen3").parsed("tokenizer.json")
    raw["model"]["ignore_merges"] = True
    raw["model"]["merges"] = raw["model"]["merges"][:-5]
    messages = dict(read(kind("qwen3").but(tokenizer__json=dumped(raw))).warnings)
    assert "not made by merging" in messages["pre-tokenizer"]


@pytest.mark.parametrize("form", ["Lowercase", "Replace", "Strip", "Precompiled"])
def test_a_normalizer_that_llama_cpp_lacks_is_an_error(form: str) -> None:
    raw = {**kind("phi4").parsed("tokenizer.json"), "normalizer": {"type": "Sequence", "normalizers": [{"type": form}]}}
    with pytest.raises(UnsupportedError, match=form):
        read(kind("phi4").but(tokenizer__json=dumped(raw)), pre="dbrx")


@pytest.mark.parametrize("other", ["text", 7, [1], {"type": "Sequence"}, {"type": "Sequence", "pretokenizers": [3]}])
def test_a_section_that_is_none_is_refused(other: Any) -> None:
    with pytest.raises(InputError, match="pre_tokenizer"):
        split_steps(other)

"""Token ids of real tokenizers, three ways: transformers on the folder, llama.cpp on what is written, our own check.

Where llama.cpp is known to split otherwise than a tokenizer asks, the kind of text is listed here, apart from the
rules of the check, and nothing else may differ.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from oracles.ggml import Model
from real_folders import NEIGHBOURS, REALITY, claimed, needs_reality, read_config, side_files

from quantkit.families.describe import find_family
from quantkit.families.known import family_named
from quantkit.formats.gguf.file import encode_header
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import check_tokenizer, rebuild
from quantkit.tokenizer.own import SourceTokenizer, open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

pytestmark = [pytest.mark.slow, needs_reality]

OTHERS = (  # words that tell names of pre-tokenizers and rules of merging apart, and what people write
    "Việt Nam có nhiều người", "практика по программированию", "Die Straße ist naß, 3,50 € bitte!", "l'été où j'ai",
    "1234567 89 0.1 12,345", "I'll've 'Re WE'LL don't", "a\n\n\n b\t\tc", "    def f(self):\n        pass\n",
    "日本語のテキスト、句読点。", "한국어 띄어쓰기", "عربي ٣٤٥", "🙂🙃🚀 ok", "x=1;y=2", "https://a.b/c?d=e&f", "ﬁn",
    "MixedCaseWordsHERE and snake_case", "“quotes” — dashes…", "5th 2nd 1st", "a" * 70, "= = = =", "\u00a0nbsp",
)  # fmt: skip
STRINGS = (*probes()[:160], *probes()[400::13])[: 300 - len(OTHERS)] + OTHERS
SLOW_STRINGS = STRINGS[::6]  # std::regex, which llama.cpp uses for tekken's pattern, takes 20 s for all
QUESTIONS = (
    "Hello!", "What is 12345 + 678?", "Sum up:\n\n- one\n- two\n", "Wie heißt der Fluß?", "什么是人工智能？",
    "def f(): pass", "Việt Nam", "I'd say: \"yes\"", "🙂", "x",
)  # fmt: skip
CHATS = tuple(
    [{"role": "user", "content": question}, *more]
    for question in QUESTIONS
    for more in (
        (),
        ({"role": "assistant", "content": "Certainly, here it is."}, {"role": "user", "content": "Thanks. More?"}),
    )
)


@dataclass(frozen=True)
class Folder:
    """A real folder as a tokenizer sees it."""

    name: str
    path: Path

    @property
    def config(self) -> dict[str, Any]:
        return read_config(self.name)

    def read_file(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        names = sorted(path.name for path in self.path.iterdir())
        return read_tokenizer(self.read_file, self.config, find_family(self.config)[0].tokens, names=names)

    @cached_property
    def source(self) -> SourceTokenizer:
        return open_source_tokenizer(self.read_file, self.config)

    @cached_property
    def theirs(self) -> Any:
        """The tokenizer of transformers. Classes that build themselves anew from vocabulary and merges drop what
        tokenizer.json says of splitting (GPT2Tokenizer of 5.24 the digits of StarCoder's), so where that file is, it
        is loaded as it is."""
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        kind = PreTrainedTokenizerFast if (self.path / "tokenizer.json").is_file() else AutoTokenizer
        return kind.from_pretrained(self.path)


def folders() -> list[str]:
    return [name for name in claimed() if name not in NEIGHBOURS or name in LENT]


# One folder for each combination of a lent tokenizer with settings of its own; the others are like one of these.
LENT = ("devstral-small-2507", "genz-70b-gptq", "orpheus-3b-nf4", "qwen3-14b-yida-v5", "qwen3-14b-mlx-4bit")


@pytest.fixture(scope="module", params=folders())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    path = tmp_path_factory.mktemp(request.param)
    for file in side_files(request.param):
        (path / file.name).write_bytes(file.read_bytes())
    (path / "config.json").write_bytes((REALITY / request.param / "config.json").read_bytes())
    yield Folder(request.param, path)


@pytest.fixture(scope="module")
def loaded(folder: Folder) -> Iterator[Model]:
    path = folder.path / "vocabulary.gguf"
    general = (KeyValue("general.architecture", "string", "llama"), KeyValue("general.name", "string", "it"))
    path.write_bytes(encode_header([*general, *folder.tokenizer.metadata], []).data)
    with Model(path, vocab_only=True) as model:
        yield model


# What llama.cpp does otherwise, by kind: whether a text is of the kind.
Kind = Callable[[str], bool]


def _case_and_marks(text: str) -> bool:
    """llama.cpp has no classes of marks and of capital letters beyond ASCII."""
    return any(unicodedata.category(c)[0] == "M" or (ord(c) > 127 and unicodedata.category(c)[0] == "L") for c in text)


def _ordinary_end(text: str) -> bool:
    """`</s>` is an ordinary piece of Qwen's vocabulary, which llama.cpp makes a control token."""
    return "</s>" in text


def _leading_space(text: str) -> bool:
    """Metaspace shares the space that it puts first with one that is there; so after each special token."""
    return re.search(r"(^|<s>|</s>|<unk>|\])[ ▁]", text) is not None


def _after_special(text: str) -> bool:
    """Metaspace with "first": text after a special token gets no space."""
    return re.search(r"(</?s>|<unk>|<pad>|<\|\w+\|>|\[/?\w+\])(?!</?s>|<unk>|<\||\[|$)", text, re.DOTALL) is not None


def _beyond(text: str) -> bool:
    """A token beyond the rows of the embedding, which cannot be written."""
    return "<pad>" in text or "<|im_" in text


def _normalized_specials(text: str) -> bool:
    """Text after special tokens that are looked for in normalized text, after which no space is put."""
    return re.search(r"(</?s>|<unk>|<\|startoftext\|>|<\|endoftext\|>)(?!$)", text, re.DOTALL) is not None


def _piece_t(text: str) -> bool:
    """`▁t`, which no merge makes."""
    return re.search(r"(^|[ ▁])t|<unk>|</?s>", text) is not None


KNOWN: dict[str, tuple[Kind, ...]] = {
    "dolphin3-mistral-24b": (_case_and_marks,),
    "devstral-small-2507": (_case_and_marks, _beyond),
    "qwen3-0.6b-slow-files": (_ordinary_end,),
    "qwen3-14b-yida-v5": (_ordinary_end,),
    "qwen3-14b-mlx-4bit": (_ordinary_end,),
    "mistral-7b-v03-json": (_leading_space, _after_special),
    "phi3-3b-slerp": (_after_special,),
    "llama2-7b-chat-nous": (_beyond, _normalized_specials),
    "genz-70b-gptq": (_beyond, _normalized_specials),
    "pygmalion-7b": (_normalized_specials,),
    "yi15-6b-slerp": (_normalized_specials,),
    "openllama-chinese-3b": (_piece_t,),
}
SPACES_ONLY = {"mistral-7b-v03-json", "phi3-3b-slerp"}  # chats may differ in spaces beside special tokens


def _unlike(folder: Folder, text: str) -> bool:
    return any(kind(text) for kind in KNOWN.get(folder.name, ()))


def test_ids_of_strings_are_equal_three_ways(folder: Folder, loaded: Model) -> None:
    strings = SLOW_STRINGS if folder.tokenizer.pre == "tekken" else STRINGS
    texts = [text for text in strings if not _unlike(folder, text)]
    assert len(texts) > len(strings) // 3
    ours, rebuilt = folder.source.encoder(), rebuild(folder.tokenizer.metadata)
    wrong = []
    for text in texts:
        theirs = folder.theirs(text)["input_ids"]
        found = loaded.tokenize(text, add_special=True, parse_special=True)
        if not theirs == found == ours(text) == rebuilt(text):
            wrong.append((text, theirs, found, ours(text), rebuilt(text)))
    assert not wrong, f"{len(wrong)} of {len(texts)}, first {wrong[0]}"


def test_ids_of_chats_are_equal(folder: Folder, loaded: Model) -> None:
    if not folder.theirs.chat_template:
        pytest.skip("it has no chat template")
    written = {entry.key: entry.value for entry in folder.tokenizer.metadata}
    assert written["tokenizer.chat_template"] == folder.theirs.chat_template
    ours = folder.source.encoder(add_special=False)
    wrong = []
    for chat in CHATS[: 4 if folder.tokenizer.pre == "tekken" else None]:
        text = folder.theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=len(chat) % 2 == 1)
        theirs = folder.theirs(text, add_special_tokens=False)["input_ids"]
        found = loaded.tokenize(text, parse_special=True)
        if folder.name in SPACES_ONLY:
            if _letters(loaded, theirs) != _letters(loaded, found):
                wrong.append((text, theirs, found))
        elif _unlike(folder, text):
            continue
        elif not theirs == found == ours(text):
            wrong.append((text, theirs, found))
    assert not wrong, f"{len(wrong)}, first {wrong[0]}"


def _letters(model: Model, ids: list[int]) -> bytes:
    return re.sub(rb"\s", b"", b"".join(model.piece(i) for i in ids))


def test_the_check_passes_and_says_what_it_left_out(folder: Folder) -> None:
    found = check_tokenizer(folder.tokenizer.metadata, folder.read_file, folder.config)
    assert found.ok, found
    assert found.words > 6000
    assert found.total + sum(count for _, count in found.reasons) >= 2000
    assert found.special_tokens >= 3
    expected = {
        name: why
        for name, why in {
            "qwen3-0.6b-slow-files": '"</s>"',
            "mistral-7b-v03-json": "first text only",
            "phi3-3b-slerp": "drops spaces",
            "llama2-7b-chat-nous": "beyond the rows",
            "dolphin3-mistral-24b": "tekken",
            "openllama-chinese-3b": '"▁t"',
        }.items()
        if name == folder.name
    }
    for why in expected.values():
        assert any(why in reason for reason, _ in found.reasons), found.reasons


def test_every_token_that_transformers_adds_is_in_the_file(folder: Folder) -> None:
    values = {e.key: e.value for e in folder.tokenizer.metadata}
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    for index, token in folder.theirs.added_tokens_decoder.items():
        if index < len(tokens) and token.content.strip("▁"):
            assert tokens[index] in {token.content, token.content.replace("▁", " ")}
            assert types[index] in ({2, 3} if token.special else {3, 4}), token
    for kind in ("bos", "eos"):
        index = getattr(folder.theirs, f"{kind}_token_id")
        first = folder.theirs("")["input_ids"]
        if kind == "bos" and first:  # the name says nothing of what is put there (OpenLLaMA: "</s>")
            index = first[0]
        if index is not None and f"tokenizer.ggml.{kind}_token_id" in values:
            assert values[f"tokenizer.ggml.{kind}_token_id"] == index


def test_another_name_for_the_split_of_llama_3_fails() -> None:
    """smaug-bpe has the pattern of llama-bpe but takes no whole words: " Việt" becomes three tokens."""
    files = {path.name: path for path in side_files("llama3-8b")}
    made = read_config("llama3-8b")

    def read_file(name: str) -> bytes | None:
        return (
            files[name].read_bytes() if name in files else json.dumps(made).encode() if name == "config.json" else None
        )

    metadata = read_tokenizer(read_file, made, family_named("llama").tokens).metadata
    wrong = [
        KeyValue(e.key, e.kind, "smaug-bpe" if e.key == "tokenizer.ggml.pre" else e.value, e.array) for e in metadata
    ]
    found = check_tokenizer(wrong, read_file, made)
    assert not found.ok
    assert "smaug-bpe" in found.difference
    assert found.passed == found.total  # the fixed texts do not tell them apart, words of the vocabulary do

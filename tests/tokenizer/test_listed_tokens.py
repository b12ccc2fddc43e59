"""Tokens that are listed in several files, in one of several, under odd ids, or beyond the embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tokenizer_kinds import LEGACY_SPACES, Kind, added, dumped, kind
from tokenizers import Tokenizer as Library

from quantkit.errors import InputError
from quantkit.tokenizer.check import check_tokenizer, rebuild
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer
from quantkit.tokenizer.sentencepiece_model import Piece, SentencePieceModel, encode_sentencepiece, parse_sentencepiece
from quantkit.tokenizer.vocabulary import TokenType


def read(made: Kind) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules)


def changed(base: str | Kind, name: str, change: Callable[[dict[str, Any]], object]) -> Kind:
    made = kind(base) if isinstance(base, str) else base
    raw = made.parsed(name)
    change(raw)
    return made.but(**{name.replace(".", "__"): dumped(raw)})


def config(base: str | Kind, **values: Any) -> Kind:
    return changed(base, "config.json", lambda raw: raw.update(values))


def settings(base: str | Kind, **values: Any) -> Kind:
    return changed(base, "tokenizer_config.json", lambda raw: raw.update(values))


def listing(entries: Any) -> Kind:
    return settings("gemma2", added_tokens_decoder=entries)


def values_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in tokenizer.metadata}


def texts_of(tokenizer: Tokenizer) -> list[str]:
    return list(values_of(tokenizer)["tokens"])


def token_at(tokenizer: Tokenizer, index: int) -> tuple[str, TokenType]:
    values = values_of(tokenizer)
    return values["tokens"][index], TokenType(values["token_type"][index])


def messages(tokenizer: Tokenizer, code: str) -> list[str]:
    return [message for found, message in tokenizer.warnings if found == code]


MISNUMBERED = {
    "the id of another": (added(3, "<x>"), '"<x>" has id 1505, not 3'),
    "a gap before it": (added(1600, "<x>"), '"<x>" has id 1505, not 1600'),
    "against the vocabulary": (added(1505, "!"), '"!" has id 0, not 1505'),
    "twice": (added(1505, "<|im_end|>"), '"<|im_end|>" has id 1502, not 1505'),
}


@pytest.mark.parametrize("name", MISNUMBERED)
def test_added_tokens_have_the_ids_that_the_library_gives(name: str) -> None:
    token, why = MISNUMBERED[name]
    made = changed("phi4", "tokenizer.json", lambda raw: raw["added_tokens"].append(token))
    tokenizer = read(made)
    assert any(code == "tokenizer-ids" and why in message for code, message in tokenizer.warnings)
    library = Library.from_str(made.files["tokenizer.json"].decode())
    text = f"a{token['content']}b"
    assert rebuild(tokenizer.metadata, add_special=False)(text) == library.encode(text, add_special_tokens=False).ids


def test_added_tokens_out_of_order_have_the_ids_that_the_library_gives() -> None:
    def two(raw: dict[str, Any]) -> None:
        raw["added_tokens"] += [added(1506, "<y>"), added(1505, "<x>")]

    made = changed("phi4", "tokenizer.json", two)
    library = Library.from_str(made.files["tokenizer.json"].decode())
    tokenizer = read(made)
    tokens = texts_of(tokenizer)
    assert [tokens.index("<x>"), tokens.index("<y>")] == [library.token_to_id("<x>"), library.token_to_id("<y>")]
    assert [code for code, _ in tokenizer.warnings] == ["tokenizer-ids"]


@pytest.mark.parametrize("base", ["phi4", "tinyllama_json"])
def test_ids_with_gaps_are_padded(base: str) -> None:
    """The library's next number is taken then, so the one of the file counts."""

    def gap(raw: dict[str, Any]) -> None:
        vocab = raw["model"]["vocab"]
        last = max(vocab, key=vocab.get)
        shift = {token["content"] for token in raw["added_tokens"] if token["content"] not in vocab}
        vocab[last] += 1
        for token in raw["added_tokens"]:
            token["id"] += token["content"] in shift
        raw["added_tokens"].append(added(max(len(vocab) + len(shift), vocab[last]) + 1, "<new>"))

    made = changed(base, "tokenizer.json", gap)
    made = config(made, vocab_size=2100)
    tokens = texts_of(read(made))
    raw = made.parsed("tokenizer.json")
    for token in raw["added_tokens"]:
        assert tokens[token["id"]] == token["content"]
    vocab = raw["model"]["vocab"]
    [missing] = set(range(max(vocab.values()))) - {*vocab.values(), *(token["id"] for token in raw["added_tokens"])}
    assert tokens[missing] == f"[PAD{missing}]"


def test_a_token_that_is_listed_twice_has_its_first_id() -> None:
    tokenizer = read(listing({"7": {"content": "<a>"}, "8": {"content": "<a>"}, "900": {"content": "<bos>"}}))
    tokens = texts_of(tokenizer)
    assert (tokens.count("<a>"), tokens[7], tokens[2]) == (1, "<a>", "<bos>")
    assert tokens[900] == texts_of(read(listing({})))[900]
    assert messages(tokenizer, "tokenizer-ids") == [
        '"<a>" has id 7, tokenizer_config.json gives it 8', '"<bos>" has id 2, tokenizer_config.json gives it 900',
    ]  # fmt: skip


# A llama_spm folder has 2,048 pieces; these have rows for more tokens.
def with_rows(rows: int, base: str | Kind = "llama_spm", **more: Any) -> Kind:
    return config(base, vocab_size=rows, **more)


def in_tokenizer_json(made: Kind) -> Kind:
    return changed(made, "tokenizer.json", lambda raw: raw["added_tokens"].extend(
        [added(2048, "<|im_start|>"), added(2049, "<tool>", special=False)]
    ))  # fmt: skip


def in_settings(made: Kind) -> Kind:
    entries = {"2048": added(2048, "<|im_start|>"), "2049": added(2049, "<tool>", special=False)}
    return settings(made, added_tokens_decoder=entries)


def in_added_tokens(made: Kind) -> Kind:
    flags = dumped({"additional_special_tokens": ["<|im_start|>"]})
    return made.but(added_tokens__json=dumped({"<tool>": 2049, "<|im_start|>": 2048}), special_tokens_map__json=flags)


PLACES = {"tokenizer.json": in_tokenizer_json, "settings": in_settings, "added_tokens.json": in_added_tokens}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", ["llama_spm", "phi3"])
def test_tokens_that_one_file_alone_lists_beside_a_tokenizer_model(place: str, base: str) -> None:
    made = with_rows(2052)
    made = PLACES[place](Kind(kind(base).family, kind(base).architecture, made.files))
    tokenizer = read(made)
    assert token_at(tokenizer, 2048) == ("<|im_start|>", TokenType.CONTROL)
    assert token_at(tokenizer, 2049) == ("<tool>", TokenType.USER_DEFINED)
    assert token_at(tokenizer, 2050) == ("[PAD2050]", TokenType.UNUSED)
    assert not messages(tokenizer, "tokenizer-added")
    assert rebuild(tokenizer.metadata, add_special=False)("a<|im_start|><tool>")[-2:] == [2048, 2049]


def test_all_files_together_say_what_each_says_alone() -> None:
    tokenizer = read(in_added_tokens(in_settings(in_tokenizer_json(with_rows(2052)))))
    assert values_of(tokenizer)["tokens"] == values_of(read(in_settings(with_rows(2052))))["tokens"]
    assert values_of(tokenizer)["token_type"] == values_of(read(in_settings(with_rows(2052))))["token_type"]
    assert not messages(tokenizer, "tokenizer-ids")


def test_two_tokens_of_one_id_in_one_file_are_reported() -> None:
    made = with_rows(2052).but(added_tokens__json=dumped({"<a>": 2049, "<b>": 2049}))
    tokenizer = read(made)
    assert token_at(tokenizer, 2049) == ("<a>", TokenType.USER_DEFINED)
    assert messages(tokenizer, "tokenizer-ids") == ['row 2049 is "<a>", added_tokens.json has "<b>" there']


def test_special_tokens_that_no_file_gives_an_id_follow() -> None:
    """As transformers adds them: at the end, in the order of their names."""
    made = settings(with_rows(2052), pad_token="<|pad|>", mask_token="<|mask|>")
    values = values_of(read(made))
    assert values["tokens"][2048:] == ("<|pad|>", "<|mask|>", "[PAD2050]", "[PAD2051]")
    assert (values["padding_token_id"], values["mask_token_id"]) == (2048, 2049)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", ["llama_spm", "llama_json_v5", "smollm"])
def test_one_token_more_than_rows_is_left_out_everywhere(place: str, base: str) -> None:
    made = kind(base)
    rows = len(texts_of(read(made)))
    entry = added(rows, "<|late|>")
    if place == "tokenizer.json":
        made = settings(made, pad_token="<|late|>")
        made = changed(made, "tokenizer.json", lambda raw: raw["added_tokens"].append(entry))
    elif place == "settings":
        made = settings(made, added_tokens_decoder={str(rows): entry}, pad_token="<|late|>")
    else:
        made = settings(made.but(added_tokens__json=dumped({"<|late|>": rows})), pad_token="<|late|>")
    tokenizer = read(made)
    assert len(texts_of(tokenizer)) == rows
    [message] = messages(tokenizer, "tokenizer-added")
    assert f'"<|late|>" has id {rows}, the embedding {rows:,} rows; left out' in message
    assert "padding_token_id" not in values_of(tokenizer)


NAMED = {
    "the pieces": lambda made: made,
    "added_tokens_decoder": lambda made: settings(
        made, eos_token="<|im_end|>", added_tokens_decoder={"2048": added(2048, "<|im_end|>")}
    ),
    "added_tokens.json": lambda made: settings(made, eos_token="<|im_end|>").but(
        added_tokens__json=dumped({"<|im_end|>": 2048})
    ),
    "an object": lambda made: settings(made, eos_token={"__type": "AddedToken", "content": "<|im_end|>"}).but(
        added_tokens__json=dumped({"<|im_end|>": 2048})
    ),
    "special_tokens_map.json": lambda made: changed(
        made, "tokenizer_config.json", lambda raw: raw.pop("eos_token")
    ).but(
        added_tokens__json=dumped({"<|im_end|>": 2048}), special_tokens_map__json=dumped({"eos_token": "<|im_end|>"})
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", NAMED)
def test_names_are_resolved_without_a_tokenizer_json(place: str) -> None:
    said = {"bos_token_id": None, "eos_token_id": None if "map" in place else 2, "pad_token_id": None}
    base = with_rows(2052, kind("llama_spm").but(tokenizer__json=None), **said)
    base = settings(base, bos_token="<s>", eos_token="</s>", pad_token="<unk>", unk_token="<unk>")
    values = values_of(read(NAMED[place](base)))
    assert values["bos_token_id"] == 1
    assert values["eos_token_id"] == (2 if place == "the pieces" else 2048)
    assert values["padding_token_id"] == 0
    assert "unknown_token_id" not in values


def test_gemma_3_with_images_has_its_bos() -> None:
    """Its config.json names neither BOS nor EOS by one id; llama.cpp would take 1, Gemma's EOS, as BOS."""
    made = config("gemma3", bos_token_id=None, eos_token_id=[1, 106])
    assert values_of(read(made))["bos_token_id"] == 2


def test_special_tokens_map_does_not_outdo_config_json() -> None:
    made = kind("llama_spm").but(special_tokens_map__json=dumped({"pad_token": "</s>", "eos_token": "<s>"}))
    values = values_of(read(config(made, pad_token_id=0)))
    assert (values["padding_token_id"], values["eos_token_id"]) == (0, 2)


def test_two_descriptions_of_two_models_are_reported() -> None:
    other = changed("mistral_json", "tokenizer.json", lambda raw: raw["added_tokens"][0].update(rstrip=True)).files[
        "tokenizer.json"
    ]
    made = with_rows(2052).but(tokenizer__json=other)
    tokenizer = read(made)
    [message] = messages(tokenizer, "tokenizer-files")
    assert "of two different models" in message
    assert texts_of(tokenizer) == texts_of(read(with_rows(2052).but(tokenizer__json=None)))
    assert not messages(tokenizer, "tokenizer-added")  # the other model's flags are not this one's


def test_a_few_pieces_with_other_ids_are_counted() -> None:
    def swap(raw: dict[str, Any]) -> None:
        vocab = raw["model"]["vocab"]
        first, second = list(vocab)[1000:1002]
        vocab[first], vocab[second] = vocab[second], vocab[first]

    tokenizer = read(changed("llama_spm", "tokenizer.json", swap))
    [message] = messages(tokenizer, "tokenizer-files")
    assert message.startswith("2 pieces of tokenizer.model")
    assert not messages(read(kind("llama_spm")), "tokenizer-files")


def test_files_that_do_not_count_are_not_judged() -> None:
    """Nothing of these is used for a byte-level tokenizer.json."""
    made = kind("llama3").but(added_tokens__json=b'{"<a>": "seven"}')
    odd = settings(
        made, model_max_length=10**30, sp_model_kwargs=None, extra_special_tokens=[], bos_token=None,
        additional_special_tokens=[{"__type": "AddedToken", "content": "<|eot_id|>"}, None, 7], legacy="perhaps",
    )  # fmt: skip
    assert texts_of(read(odd)) == texts_of(read(kind("llama3")))


@pytest.mark.parametrize("base", ["llama3", "llama_spm"])
def test_null_says_nothing(base: str) -> None:
    made = settings(base, added_tokens_decoder=None, chat_template=None, additional_special_tokens=None, bos_token=None)
    made = made.but(special_tokens_map__json=b"version https://git-lfs.github.com/spec/v1", added_tokens__json=b"{}")
    assert texts_of(read(made)) == texts_of(read(kind(base)))


def test_normalizer_of_a_tokenizer_json_beside_a_model_is_not_judged() -> None:
    made = changed("llama_spm", "tokenizer.json", lambda raw: raw.update(normalizer={**LEGACY_SPACES, "extra": 1}))
    assert texts_of(read(made)) == texts_of(read(kind("llama_spm")))


@pytest.mark.parametrize(
    ("special", "content", "wanted"),
    [(True, "▁the", TokenType.CONTROL), (True, "<new>", TokenType.CONTROL), (False, "<new>", TokenType.USER_DEFINED)],
)
def test_types_of_added_tokens_of_a_sentencepiece_style_tokenizer_json(
    special: bool, content: str, wanted: TokenType
) -> None:
    """The reference calls control only those that tokenizer_config.json names."""
    made = with_rows(2052, "tinyllama_json")
    index = made.parsed("tokenizer.json")["model"]["vocab"].get(content, 2048)
    entry = added(index, content, special=special)
    made = changed(made, "tokenizer.json", lambda raw: raw["added_tokens"].append(entry))
    assert token_at(read(made), index) == (content, wanted)


def test_gemma_without_a_tokenizer_model_is_read_from_tokenizer_json() -> None:
    made = config("tinyllama_json", architectures=["Gemma3ForCausalLM"], model_type="gemma3_text")
    tokenizer = read(Kind("gemma3", "Gemma3ForCausalLM", made.files))
    assert (tokenizer.kind, values_of(tokenizer)["add_space_prefix"]) == ("spm", False)


def _with(model: SentencePieceModel, index: int, kind: TokenType) -> SentencePieceModel:
    pieces = [replace(p, kind=kind) if at == index else p for at, p in enumerate(model.pieces)]
    return replace(model, pieces=tuple(pieces))


def _without(model: SentencePieceModel, text: str) -> SentencePieceModel:
    pieces = [Piece("\u2741", -9999.0, TokenType.NORMAL) if p.text == text else p for p in model.pieces]
    return replace(model, pieces=tuple(pieces))


# The last of several specifications in a file counts; field 35 of trainer_spec is byte_fallback.
NO_FALLBACK, FALLBACK = b"\x12\x03\x98\x02\x00", b"\x12\x03\x98\x02\x01"
CONTRADICTIONS: dict[str, Callable[[SentencePieceModel], bytes]] = {
    "bytes without the flag": lambda model: encode_sentencepiece(model) + NO_FALLBACK,
    "the flag and 255 bytes": lambda model: encode_sentencepiece(_without(model, "<0x41>")) + FALLBACK,
    "255 bytes": lambda model: encode_sentencepiece(_without(model, "<0x41>")),
    "two unknown": lambda model: encode_sentencepiece(_with(model, 1, TokenType.UNKNOWN)),
    "another number of pieces": lambda model: encode_sentencepiece(model) + b"\x12\x02\x20\x05",
    "the unknown elsewhere": lambda model: encode_sentencepiece(model) + b"\x12\x03\xc0\x02\x09",
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_pieces_that_contradict_the_specification_count(name: str) -> None:
    """llama.cpp reads pieces, types and scores alone, and so does the check."""
    base = kind("llama_spm_model_only")
    made = base.but(tokenizer__model=CONTRADICTIONS[name](parse_sentencepiece(base.files["tokenizer.model"])))
    tokenizer = read(made)
    expected, found = open_source_tokenizer(made.read_file, made.config).encoder(), rebuild(tokenizer.metadata)
    texts = [text for text in probes()[:300] if "<s>" not in text]
    assert [text for text in texts if expected(text) != found(text)] == []


@pytest.mark.parametrize(
    "kind_of_piece", [TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.NORMAL]
)
def test_special_pieces_beyond_the_embedding_are_left_out(kind_of_piece: TokenType) -> None:
    base = kind("llama_spm_model_only")
    model = parse_sentencepiece(base.files["tokenizer.model"])
    more = replace(model, pieces=(*model.pieces, Piece("<tool>", 0.0, kind_of_piece)))
    made = base.but(tokenizer__model=encode_sentencepiece(more))
    if kind_of_piece is TokenType.NORMAL:
        with pytest.raises(InputError, match="at most the embedding's 2,048 rows"):
            read(made)
        return
    tokenizer = read(made)
    assert texts_of(tokenizer) == texts_of(read(base))
    expected, found = open_source_tokenizer(made.read_file, made.config).encoder(), rebuild(tokenizer.metadata)
    assert expected("a <tool> b") == found("a <tool> b")
    assert messages(tokenizer, "tokenizer-added") == [
        'tokenizer.model: "<tool>" beyond the embedding\'s 2,048 rows; left out'
    ]


CHECKED: dict[str, Callable[[], Kind]] = {
    "names without ids": lambda: settings(with_rows(2052), pad_token="<|pad|>", mask_token="<|mask|>"),
    "two texts of one id": lambda: with_rows(2052).but(added_tokens__json=dumped({"<a>": 2049, "<b>": 2049})),
    "names that cannot be read": lambda: with_rows(2052).but(special_tokens_map__json=b"[]"),
    "an EOS of special_tokens_map.json beside another of config.json": lambda: changed(
        with_rows(2052, eos_token_id=2), "tokenizer_config.json", lambda raw: raw.pop("eos_token")
    ).but(special_tokens_map__json=dumped({"eos_token": "<s>"})),
    "two models": lambda: with_rows(2052).but(tokenizer__json=kind("mistral_json").files["tokenizer.json"]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_check_agrees_about_odd_folders(name: str) -> None:
    made = CHECKED[name]()
    found = check_tokenizer(read(made).metadata, made.read_file, made.config)
    assert (found.passed, found.difference) == (found.total, "")


@pytest.mark.parametrize("named", [{"bos_token": "<s>", "eos_token": "</s>"}, {"bos_token": "<s>"}, {}])
def test_a_bos_that_is_an_ordinary_piece(named: dict[str, str]) -> None:
    """sentencepiece has no id for it then; transformers puts the token that is called so, and finds it in text."""
    base = kind("llama_spm_model_only")
    model = parse_sentencepiece(base.files["tokenizer.model"])
    ordinary = _with(_with(model, 1, TokenType.NORMAL), 2, TokenType.NORMAL)
    made = base.but(tokenizer__model=encode_sentencepiece(ordinary), tokenizer_config__json=dumped(named))
    tokenizer = read(made)
    kinds = {name: TokenType.CONTROL if key in named else TokenType.NORMAL for key, name in _USUAL.items()}
    assert {name: token_at(tokenizer, index) for index, name in enumerate(kinds, 1)} == {
        name: (name, token_type) for name, token_type in kinds.items()
    }
    found = check_tokenizer(tokenizer.metadata, made.read_file, made.config)
    assert found.ok, found
    assert open_source_tokenizer(made.read_file, made.config).encoder()("hello")[0] == 1


_USUAL = {"bos_token": "<s>", "eos_token": "</s>"}

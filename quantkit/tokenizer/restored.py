"""The tokenizer files of a checkpoint, made of the `tokenizer.*` entries of a GGUF file.

gpt2    tokenizer.json: byte-level BPE, cut by the patterns that go with the name of the pre-tokenizer
llama   tokenizer.model as SentencePiece has it, and a tokenizer.json with byte fallback that splits alike
bert    tokenizer.json: WordPiece
t5      tokenizer.json: Unigram
gemma4  tokenizer.json: pieces with byte fallback that merge in the order of the merges

They split text as llama.cpp does with the file: what llama.cpp leaves out of the original (a normalizer before
byte-level BPE) does not come back.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.filenames import ADDITIONAL
from quantkit.jsontext import dump_json
from quantkit.metadata import KeyValue
from quantkit.tokenizer.bpe import byte_level_decoded
from quantkit.tokenizer.chat_template import KEY, TEMPLATE_FILE
from quantkit.tokenizer.files import TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL
from quantkit.tokenizer.gemma4 import GEMMA4, SHOWN
from quantkit.tokenizer.llama_cpp_tokens import FOUND_IN_TEXT
from quantkit.tokenizer.pre_table import EACH_DIGIT, GPT2_STEP, LLAMA_CPP, RECOGNIZED, Step
from quantkit.tokenizer.rebuilt import Artifact, read_artifact, unigram_of, unknown_of
from quantkit.tokenizer.rebuilt_pieces import LOWERCASE, STRIP_ACCENTS
from quantkit.tokenizer.sentencepiece_model import BPE, Piece, SentencePieceModel, encode_sentencepiece
from quantkit.tokenizer.special_tokens import ID_KEYS
from quantkit.tokenizer.vocabulary import ADDED_SCORE, SPACE, TokenType, padding
from quantkit.untrusted import shown

Json = dict[str, Any]
NAMED = ("bos", "eos", "unk", "sep", "pad", "mask")
NO_LIMIT = 1 << 30


def restored_tokenizer(metadata: Sequence[KeyValue], context: int | None, *, phi: bool = False) -> dict[str, bytes]:
    """The files by name. `context` is the longest text of the model. With `phi` (see `TokenizerRules`) a tokenizer.json
    beside a tokenizer.model has no more added tokens than the original had.

    Raises InputError for entries that contradict each other, UnsupportedError for a vocabulary that cannot be rebuilt.
    """
    artifact = read_artifact(metadata)
    model = artifact.values.get("model")
    files: dict[str, bytes] = {}
    if model == "llama":
        pieces = _sentencepiece(artifact)
        files[TOKENIZER_MODEL] = encode_sentencepiece(pieces)
        raw = _byte_fallback(artifact, pieces)
        if phi:
            scores = [piece.score for piece in pieces.pieces]
            raw["added_tokens"] = [token for token in raw["added_tokens"] if scores[token["id"]] == ADDED_SCORE]
    elif model == "bert":
        raw = _wordpiece(artifact)
    elif model == "t5":
        raw = _unigram(artifact)
    elif model == GEMMA4:
        raw = _ranked_pieces(artifact)
    else:
        raw = _byte_level(artifact)
    files[TOKENIZER_JSON] = _json(raw)
    files[TOKENIZER_CONFIG] = _json(_settings(artifact, context))
    files |= _templates(metadata)
    return files


def _json(body: Json) -> bytes:
    return (dump_json(body, indent=2, carried=True) + "\n").encode()


def _raw(artifact: Artifact, model: Json, **sections: Any) -> Json:
    """A whole tokenizer.json. Tokens that are found in text before it is cut stand in `added_tokens`."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(_added(artifact)),
        "normalizer": None, "pre_tokenizer": None, "post_processor": _template(artifact), "decoder": None, **sections,
        "model": model,
    }  # fmt: skip


def _added(artifact: Artifact) -> Iterator[Json]:
    byte_level = artifact.values.get("model") == "gpt2"
    shown_too = SHOWN if artifact.values.get("model") == GEMMA4 else frozenset[str]()
    for index, (text, kind) in enumerate(zip(artifact.tokens, artifact.kinds, strict=True)):
        if kind not in FOUND_IN_TEXT or (kind is TokenType.UNKNOWN and artifact.values.get("model") == "llama"):
            continue  # a tokenizer.model says by itself what is unknown
        content = _found_as(artifact, text, kind)
        # what is not normalized is taken for bytes written as characters: a text that reads so has to be normalized
        normalized = byte_level and byte_level_decoded(content) != content
        yield {
            "id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": kind is not TokenType.USER_DEFINED or content in shown_too,
        }  # fmt: skip


def _found_as(artifact: Artifact, text: str, kind: TokenType) -> str:
    """A token as it is looked for in text: WordPiece marks words with a space that texts do not have."""
    if artifact.values.get("model") == "bert" and kind is TokenType.USER_DEFINED:
        return text[1:] if text.startswith(SPACE) else f"##{text}"
    return text


def _template(artifact: Artifact) -> Json | None:
    """What is put around a text."""
    if not artifact.first and not artifact.last:
        return None
    before = [{"SpecialToken": {"id": artifact.tokens[i], "type_id": 0}} for i in artifact.first]
    after = [{"SpecialToken": {"id": artifact.tokens[i], "type_id": 0}} for i in artifact.last]
    second = [{"SpecialToken": {"id": artifact.tokens[i], "type_id": 1}} for i in artifact.last]
    again = [] if artifact.values.get("model") in ("bert", "t5") else [
        {"SpecialToken": {"id": artifact.tokens[i], "type_id": 1}} for i in artifact.first
    ]  # fmt: skip
    one, two = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    used = {*artifact.first, *artifact.last}
    return {
        "type": "TemplateProcessing", "single": [*before, one, *after],
        "pair": [*before, one, *after, *again, two, *second],
        "special_tokens": {
            artifact.tokens[i]: {"id": artifact.tokens[i], "ids": [i], "tokens": [artifact.tokens[i]]} for i in used
        },
    }  # fmt: skip


# --- byte-level BPE ---------------------------------------------------------------------------------------------------


def _byte_level(artifact: Artifact) -> Json:
    pre = LLAMA_CPP.get(artifact.pre)
    if pre is None or not pre.patterns:
        what = f'the pre-tokenizer "{shown(artifact.pre)}" cannot be written as a tokenizer.json'
        raise UnsupportedError(what, key="tokenizer.ggml.pre", hint="copy tokenizer files of the original model")
    vocab = {
        text: index
        for index, (text, kind) in enumerate(zip(artifact.tokens, artifact.kinds, strict=True))
        if kind is TokenType.NORMAL or (kind is TokenType.UNUSED and text != padding(index, 0.0).text)
    }
    cuts = [_cut(step) for step in _steps_of(artifact.pre)]
    encoded = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if cuts and cuts[-1]["type"] == "ByteLevel":  # its own pattern, and the encoding in one step
        encoded = {**encoded, "use_regex": True}
        cuts.pop()
    return _raw(
        artifact,
        {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre.whole_words,
            "vocab": vocab, "merges": _merges(artifact),
        },
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*cuts, encoded]},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )  # fmt: skip


def _merges(artifact: Artifact) -> list[list[str]]:
    return [list(str(merge).partition(" ")[::2]) for merge in artifact.values.get("merges") or ()]


def _steps_of(name: str) -> Sequence[Step]:
    """The steps of tokenizer.json that llama.cpp's name stands for: those that are known by it, or that split alike;
    else its own patterns."""
    patterns = LLAMA_CPP[name].patterns
    own = [row for row in RECOGNIZED if name in (row.name, row.whole_words)]
    alike = [row for row in RECOGNIZED if LLAMA_CPP[row.name].patterns == patterns and not row.differs]
    found = [row for row in own if not row.differs] or alike
    return found[0].steps if found else [("split", pattern) for pattern in patterns]


def _cut(step: Step) -> Json:
    """A step as a section of a tokenizer.json."""
    if step == GPT2_STEP:
        return {"type": "ByteLevel"}
    if step == EACH_DIGIT or step[0] == "digits":
        return {"type": "Digits", "individual_digits": step == EACH_DIGIT}
    if step[0] == "punctuation":
        return {"type": "Punctuation", "behavior": step[1]}
    assert step[0] == "split", step
    return {"type": "Split", "pattern": {"Regex": step[1]}, "behavior": "Isolated", "invert": False}


# --- SentencePiece ----------------------------------------------------------------------------------------------------


def _sentencepiece(artifact: Artifact) -> SentencePieceModel:
    scores = artifact.values.get("scores") or [0.0] * len(artifact.tokens)
    pieces = []
    for text, score, kind in zip(artifact.tokens, scores, artifact.kinds, strict=True):
        spelled = text.replace(" ", SPACE) if kind is TokenType.USER_DEFINED else text
        pieces.append(Piece(spelled, float(score), kind))
    prefix = artifact.values.get("add_space_prefix", True) is True
    return SentencePieceModel(tuple(pieces), BPE, add_dummy_prefix=prefix, remove_extra_whitespaces=False)


def _byte_fallback(artifact: Artifact, model: SentencePieceModel) -> Json:
    vocab = {text: index for index, text in enumerate(artifact.tokens)}
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind is TokenType.NORMAL}
    merges: list[tuple[float, int, str, str]] = []
    for text, score in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in scores and right in scores:
                merges.append((-score, vocab[text], left, right))
    merges.sort(key=lambda merge: merge[:2])
    unknown = artifact.tokens[unknown_of(artifact)]
    prefix = [{"type": "Prepend", "prepend": SPACE}] if model.add_dummy_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.add_dummy_prefix else []
    return _pieces(artifact, unknown, vocab, [[left, right] for _, _, left, right in merges], prefix, strip)


def _ranked_pieces(artifact: Artifact) -> Json:
    """Gemma 4's, whose merges are in the file."""
    vocab = {
        text: index
        for index, (text, kind) in enumerate(zip(artifact.tokens, artifact.kinds, strict=True))
        if kind is not TokenType.UNUSED or text != padding(index, 0.0).text
    }
    unknown = artifact.tokens[unknown_of(artifact)] if "unknown_token_id" in artifact.values else None
    return _pieces(artifact, unknown, vocab, _merges(artifact), [], [])


def _pieces(
    artifact: Artifact,
    unknown: str | None,
    vocab: Mapping[str, int],
    merges: list[list[str]],
    prefix: list[Json],
    strip: list[Json],
) -> Json:
    """Pieces with spaces written as U+2581; `prefix` is what is done to a text before that, `strip` after decoding."""
    return _raw(
        artifact,
        {
            "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": TokenType.BYTE in artifact.kinds,
            "ignore_merges": False, "vocab": vocab, "merges": merges,
        },
        normalizer={
            "type": "Sequence",
            "normalizers": [*prefix, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, *strip,
            ],
        },
    )  # fmt: skip


# --- encoders ---------------------------------------------------------------------------------------------------------


def _wordpiece(artifact: Artifact) -> Json:
    vocab: dict[str, int] = {}
    for index, (text, kind) in enumerate(zip(artifact.tokens, artifact.kinds, strict=True)):
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            vocab[text] = index
        elif kind is not TokenType.UNUSED or text != SPACE + padding(index, 0.0).text:
            vocab[text[1:] if text.startswith(SPACE) else f"##{text}"] = index
    values = artifact.values
    return _raw(
        artifact,
        {
            "type": "WordPiece", "unk_token": artifact.tokens[unknown_of(artifact)], "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
        normalizer={
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": values.get(STRIP_ACCENTS), "lowercase": values.get(LOWERCASE, True) is True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )  # fmt: skip


def _unigram(artifact: Artifact) -> Json:
    model = unigram_of(artifact)
    scores = artifact.values.get("scores") or ()
    count = len(artifact.tokens)
    while count and artifact.kinds[count - 1] is TokenType.UNUSED:  # rows of the embedding that no piece has
        count -= 1
    normalizers: list[Json] = []
    if model.charsmap:
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
        normalizers.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    scheme = "always" if model.add_dummy_prefix else "never"
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    return _raw(
        artifact,
        {
            "type": "Unigram", "unk_id": unknown_of(artifact), "byte_fallback": False,
            "vocab": [[text, float(score)] for text, score in zip(artifact.tokens[:count], scores, strict=False)],
        },
        normalizer={"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        pre_tokenizer=space,
        decoder=space,
    )  # fmt: skip


# --- settings and templates -------------------------------------------------------------------------------------------


def _settings(artifact: Artifact, context: int | None) -> Json:
    """tokenizer_config.json: special tokens by their texts, and whether they are put around a text."""
    values, found = artifact.values, {}
    for kind in NAMED:
        index = values.get(ID_KEYS[kind])
        if not isinstance(index, int) or not 0 <= index < len(artifact.tokens):
            continue
        if artifact.kinds[index] in (TokenType.CONTROL, TokenType.UNKNOWN):  # a name would make a control token of it
            found[f"{kind}_token"] = artifact.tokens[index]
    if values.get("model") == "bert" and "bos_token" in found:
        found["cls_token"] = found["bos_token"]
    if values.get("model") == "llama" and "unk_token" not in found:
        found["unk_token"] = artifact.tokens[unknown_of(artifact)]
    for key in ("add_bos_token", "add_eos_token", "add_sep_token"):
        if key in values:
            found[key] = values[key]
    return {
        **found, "clean_up_tokenization_spaces": False, "model_max_length": context or NO_LIMIT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip


def _templates(metadata: Sequence[KeyValue]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in metadata:
        if entry.key == KEY and isinstance(entry.value, str):
            found[TEMPLATE_FILE] = entry.value.encode("utf-8", "surrogateescape")
        elif entry.key.startswith(f"{KEY}.") and isinstance(entry.value, str):
            name = entry.key.removeprefix(f"{KEY}.")
            if name.isalnum() or name.replace("_", "").isalnum():
                found[f"{ADDITIONAL}{name}.jinja"] = entry.value.encode("utf-8", "surrogateescape")
    return found

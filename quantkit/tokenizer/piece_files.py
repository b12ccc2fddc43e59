"""vocab.txt, spiece.model and sentencepiece.bpe.model: the tokenizer.json that transformers makes of each.

transformers' converters for BERT, T5 and XLM-RoBERTa (convert_slow_tokenizer.py of transformers 5.24) say what the
files do not: how text is normalized and cut, which tokens are put around it, and which ids XLM-RoBERTa gives to pieces.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.tokenizer.files import (
    TOKENIZER_MODEL,
    TokenizerFiles,
    named_tokens,
    read_bytes,
    read_settings_added,
    read_text,
    token_text,
)
from quantkit.tokenizer.sentencepiece_model import UNIGRAM, SentencePieceModel, is_tiktoken, parse_sentencepiece
from quantkit.tokenizer.vocabulary import SPACE, TokenType

VOCAB_TXT = "vocab.txt"
SHIFTED_MODEL, PLAIN_MODELS = "sentencepiece.bpe.model", ("spiece.model", TOKENIZER_MODEL)
BERT_NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]",
              "mask_token": "[MASK]"}  # fmt: skip
SHIFTED = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3 of XLM-RoBERTa; its pieces follow from the fourth on
OF_CAMEMBERT = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED")  # its pieces follow from the second on
MASK = "<mask>"
NEVER = -100.0  # the score of a piece that is not to be chosen
EXTRA_IDS = 100  # tokens <extra_id_0> ... that T5's class adds where tokenizer_config.json does not say


def tokenizer_json_of_vocab_txt(files: TokenizerFiles) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with vocab.txt, one token a line; None where it has none."""
    text = read_text(files.read_file, VOCAB_TXT)
    if text is None:
        return None
    vocab = {line.rstrip("\n"): index for index, line in enumerate(text.removesuffix("\n").split("\n"))}
    names = {**BERT_NAMES, **{key: token_text(files.settings.get(key)) or name for key, name in BERT_NAMES.items()}}
    strip = files.settings.get("strip_accents")
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "lowercase": files.settings.get("do_lower_case") is not False,
        "handle_chinese_chars": files.settings.get("tokenize_chinese_chars") is not False,
        "strip_accents": strip if isinstance(strip, bool) else None,
    }  # fmt: skip
    found = {token.content: vocab.get(token.content, token.index) for token in read_settings_added(files.settings)}
    texts = [*names.values(), *(token.content for token in named_tokens(files)), *files.added]
    found |= {text: vocab.get(text, files.added.get(text, -1)) for text in texts}
    model = {
        "type": "WordPiece", "unk_token": names["unk_token"], "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocab,
    }  # fmt: skip
    around = _around(names["cls_token"], names["sep_token"], vocab)
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return _made(model, found, normalizer, {"type": "BertPreTokenizer"}, around, decoder)


def tokenizer_json_of_shifted(files: TokenizerFiles) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with XLM-RoBERTa's or CamemBERT's sentencepiece.bpe.model; None where it has none.

    Both count pieces on from tokens of their own, which are not the same.
    """
    model = _unigram(files, SHIFTED_MODEL)
    if model is None:
        return None
    named = files.config.get("model_type"), str(files.settings.get("tokenizer_class"))
    camembert = named[0] == "camembert" or named[1].startswith("Camembert")
    before, skipped = (OF_CAMEMBERT, 1) if camembert else (SHIFTED, 3)
    vocab = [(text, NEVER if text == OF_CAMEMBERT[4] else 0.0) for text in before]
    vocab += [(piece.text, piece.score) for piece in model.pieces[skipped:]]
    vocab.append((MASK, 0.0))
    ids = {text: index for index, (text, _) in enumerate(vocab)}
    added = {text: ids[text] for text in (*before, *SHIFTED, MASK) if text in ids}
    around = _around("<s>", "</s>", ids, twice=True)
    return _of_pieces(model, vocab, before.index("<unk>"), added, around)


def tokenizer_json_of_pieces(files: TokenizerFiles) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with T5's spiece.model, or a Unigram tokenizer.model; None where it has none."""
    model = next((found for name in PLAIN_MODELS if (found := _unigram(files, name))), None)
    if model is None:
        return None
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    extra = files.settings.get("extra_ids", EXTRA_IDS)
    count = extra if isinstance(extra, int) and 0 <= extra <= EXTRA_IDS else EXTRA_IDS
    vocab += [(f"<extra_id_{number}>", 0.0) for number in range(count - 1, -1, -1)]
    ids = {text: index for index, (text, _) in enumerate(vocab)}
    special = [piece.text for piece in model.pieces if piece.kind in (TokenType.CONTROL, TokenType.UNKNOWN)]
    added = {text: ids[text] for text in (*special, *(text for text, _ in vocab[len(model.pieces) :]))}
    added |= {token.content: ids.get(token.content, token.index) for token in read_settings_added(files.settings)}
    unk = next((i for i, piece in enumerate(model.pieces) if piece.kind is TokenType.UNKNOWN), 0)
    return _of_pieces(model, vocab, unk, added, _around("", "</s>", ids))


def _unigram(files: TokenizerFiles, name: str) -> SentencePieceModel | None:
    data = read_bytes(files.read_file, name)
    if data is None or is_tiktoken(data):
        return None
    model = parse_sentencepiece(data)
    return model if model.model_type == UNIGRAM else None


def _of_pieces(
    model: SentencePieceModel,
    vocab: list[tuple[str, float]],
    unk: int,
    added: Mapping[str, int],
    around: dict[str, Any] | None,
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    normalizer = {"type": "Sequence", "normalizers": steps} if steps else None
    scheme = "always" if model.add_dummy_prefix else "never"
    spaces = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    unigram = {"type": "Unigram", "unk_id": unk, "vocab": [list(pair) for pair in vocab], "byte_fallback": False}
    return _made(unigram, added, normalizer, spaces, around, spaces)


def _made(
    model: dict[str, Any],
    added: Mapping[str, int],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any],
    post_processor: dict[str, Any] | None,
    decoder: dict[str, Any],
) -> dict[str, Any]:
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(_entries(added)),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": decoder, "model": model,
    }  # fmt: skip


def _entries(added: Mapping[str, int]) -> Iterable[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for text, index in sorted(added.items(), key=lambda pair: pair[1]):
        if index >= 0:
            yield {"id": index, "content": text, **flags}


def _around(first: str, last: str, ids: Mapping[str, int], *, twice: bool = False) -> dict[str, Any] | None:
    """A post-processor that puts a token before and one after a text, those of the two that there are; `twice`: two of
    the last between two texts."""

    def token(text: str) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": 0}}] if text in ids else []

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    used = [name for name in (first, last) if name in ids]
    if not used:
        return None
    between = token(last) * (2 if twice else 1)
    return {
        "type": "TemplateProcessing",
        "single": [*token(first), text("A"), *token(last)],
        "pair": [*token(first), text("A"), *between, text("B"), *token(last)],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in used},
    }

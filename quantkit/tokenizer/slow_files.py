"""vocab.json with merges.txt, as GPT-2 and Qwen publish them: the tokenizer.json that transformers makes of the two.

The two files do not say how text is split; the class that tokenizer_config.json names does (tokenization_qwen2.py and
tokenization_gpt2.py of transformers 5.24), or else the type of the model. The reference converter reads such a folder
through transformers as well.
"""

from __future__ import annotations

from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.known import family_of_type
from quantkit.tokenizer.files import (
    HINT,
    MAX_TOKENS,
    TOKENIZER_JSON,
    AddedToken,
    TokenizerFiles,
    bad,
    named_tokens,
    read_object,
    read_settings_added,
    read_text,
)
from quantkit.tokenizer.pre_table import ANY_CASE, REST, WORD
from quantkit.untrusted import shown

VOCAB, MERGES = "vocab.json", "merges.txt"
QWEN2, GPT2 = "Qwen2Tokenizer", "GPT2Tokenizer"
OTHER_TYPES = {"gpt2": GPT2, "gpt_bigcode": GPT2}  # model types that are no family's
QWEN2_PATTERN = rf"{ANY_CASE}|{WORD}|\p{{N}}|{REST}"


def tokenizer_json_of_slow_files(files: TokenizerFiles) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with vocab.json and merges.txt; None where one of the two is missing.

    Raises UnsupportedError for a class of tokenizer that is not known, InputError for broken files.
    """
    vocab = read_object(files.read_file, VOCAB)
    merges = read_text(files.read_file, MERGES)
    if vocab is None or merges is None:
        return None
    normalizer, pre_tokenizer = _split(files)
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(token) for token in _added(files)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": _merges(merges),
        },
    }  # fmt: skip


def _split(files: TokenizerFiles) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The normalizer and pre_tokenizer sections of the class of tokenizer."""
    named = files.settings.get("tokenizer_class")
    model_type = str(files.config.get("model_type"))
    kind = _class_of_type(model_type) if named is None else str(named).removesuffix("Fast")
    prefix = files.settings.get("add_prefix_space") is True
    own = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True}
    if kind == QWEN2:
        split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
        return {"type": "NFC"}, {"type": "Sequence", "pretokenizers": [split, {**own, "use_regex": False}]}
    if kind == GPT2:
        return None, {**own, "use_regex": True}
    what = f'tokenizer_class "{shown(str(named))}"' if named is not None else f'model_type "{shown(model_type)}"'
    message = f"{VOCAB} and {MERGES} do not say how text is split, and neither does {what}"
    hint = f"add the {TOKENIZER_JSON} of the same model; {QWEN2} and {GPT2} are known"
    raise UnsupportedError(message, path=VOCAB, key="tokenizer_class", hint=hint)


def _class_of_type(model_type: str) -> str | None:
    family = family_of_type(model_type)
    return family.tokens.slow if family else OTHER_TYPES.get(model_type)


def _added(files: TokenizerFiles) -> list[AddedToken]:
    """The added tokens in the order of their ids; those of added_tokens.json have no flags of their own."""
    found = {token.content: token for token in read_settings_added(files.settings)}
    special = {token.content for token in named_tokens(files)}
    for text, index in files.added.items():
        found.setdefault(text, AddedToken(index, text, special=text in special, normalized=text not in special))
    return sorted(found.values(), key=lambda token: token.index)


def _entry(token: AddedToken) -> dict[str, Any]:
    return {
        "id": token.index, "content": token.content, "special": token.special, "normalized": token.normalized,
        "lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word,
    }  # fmt: skip


def _merges(text: str) -> list[list[str]]:
    """The pairs of a merges.txt: one a line after a comment in the first; empty lines do not count."""
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise bad(MERGES, f"line {number}", line, "two tokens with a space between them")
        found.append(parts)
        if len(found) > MAX_TOKENS:
            raise bad(MERGES, "the number of merges", f"above {MAX_TOKENS:,}", HINT)
    return found

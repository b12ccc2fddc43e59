"""The tokenizer of a checkpoint as GGUF metadata, with a hash that says which tokenizer it is.

`read_tokenizer` chooses between the kinds: a SentencePiece `tokenizer.model` where there is one, else tokenizer.json
(or what stands in its place, see tokenizer_sources), SentencePiece-style when its BPE falls back to bytes and
byte-level otherwise. For encoders a model of WordPiece or Unigram counts too. Which files count and what a family adds
(its TokenizerRules) is the reference converter's choice (conversion/*.py, October 2026).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.known import said_or_default, vocabulary_size
from quantkit.families.rows import TokenizerRules
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.bpe import added_tokens, byte_level_vocabulary, check_byte_level, is_byte_level_class
from quantkit.tokenizer.chat_template import find_chat_templates
from quantkit.tokenizer.family_tokens import suppressed, tokens_of_family, with_control
from quantkit.tokenizer.files import (
    TEKKEN,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    ReadFile,
    TokenizerFiles,
    bad,
    is_index,
    model_kind,
    parse_tokenizer_json,
    read_bytes,
    read_tokenizer_files,
)
from quantkit.tokenizer.gemma4 import GEMMA4, gemma4_vocabulary
from quantkit.tokenizer.listed_tokens import of_one_model
from quantkit.tokenizer.plamo import LINES, PLAMO, plamo_vocabulary
from quantkit.tokenizer.pre import find_pre, require_pre
from quantkit.tokenizer.pre_table import LLAMA_CPP
from quantkit.tokenizer.rwkv import RWKV, WORLD, world_vocabulary
from quantkit.tokenizer.sentencepiece_model import UNIGRAM, SentencePieceModel, is_tiktoken, parse_sentencepiece
from quantkit.tokenizer.sources import open_tokenizer_json
from quantkit.tokenizer.special_tokens import SpecialTokens, find_special_tokens, special_map_tokens
from quantkit.tokenizer.spm import byte_fallback_vocabulary, sentencepiece_vocabulary
from quantkit.tokenizer.token_flags import FIRST_ONLY, changes_spaces, flag_warnings, flags_beside_model
from quantkit.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["ReadFile", "Tokenizer", "read_tokenizer"]

SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
CODE_LLAMA_ROWS, CODE_LLAMA_KINDS, CODE_LLAMA_EOT = 32016, ("prefix", "suffix", "middle", "eot"), 32010
GRANITE_ROWS = 49152
KINDS = {
    "gpt2": "bpe",
    "llama": "spm",
    "bert": "wordpiece",
    "t5": "unigram",
    GEMMA4: "spm by merges",
    RWKV: "longest match",
    PLAMO: "best sum",
}
OWN_FILES = {RWKV: WORLD, PLAMO: LINES}
OTHER_FILES = (
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "tokenizer.model.v3",
)  # fmt: skip
HASH_FORM = 1
NO_TEMPLATE = f"{TEKKEN} says nothing of how chats are written, and there is no chat_template.jinja; none was written"
NO_WORLD_TEMPLATE = (
    "the checkpoint says nothing of how chats are written: start llama.cpp with --chat-template rwkv-world"
)


@record
class Tokenizer:
    """A tokenizer ready to be written.

    `metadata` is every `tokenizer.*` entry in the reference converter's order. `vocab_size` is the number of tokens,
    padding included. `kind` is one of KINDS. `pre` is the pre-tokenizer and
    `pre_found_by` how it was found ("option", "pattern", "hash"; "default" where llama.cpp has none).

    `sha256` is the SHA-256 of a canonical JSON (sorted keys, no spaces, ASCII) of the metadata as {key: [kind,
    value]}, of the kind, and of what the metadata cannot say of the split: the normalizer and pre_tokenizer sections
    and flags of the model for tokenizer.json, the normalizer for tokenizer.model. Order and spelling of the source's
    JSON do not matter; a token, merge, score, id, flag, pattern or chat template does.
    """

    metadata: tuple[KeyValue, ...]
    sha256: str
    vocab_size: int
    kind: str
    pre: str
    pre_found_by: str
    warnings: tuple[tuple[str, str], ...]


@record
class _Source:
    """The files of one checkpoint. `raw` is tokenizer.json parsed, `data` its bytes, `file` its name; `model` is
    a tokenizer.model."""

    files: TokenizerFiles
    data: bytes | None
    raw: dict[str, Any] | None
    model: SentencePieceModel | None
    file: str = TOKENIZER_JSON


@record
class _Read:
    """A vocabulary, how its pre-tokenizer was found, and what else decides how text is split (for the hash)."""

    vocabulary: Vocabulary
    pre_found_by: str
    split: dict[str, Any]


def read_tokenizer(
    read_file: ReadFile,
    config: Mapping[str, Any],
    rules: TokenizerRules,
    *,
    pre: str | None = None,
    names: Sequence[str] = (),
) -> Tokenizer:
    """Read the tokenizer of a checkpoint.

    `read_file` gives the bytes of a file by name, None where there is none; `config` is the parsed config.json;
    `rules` are those of its family; `pre` the user's choice of pre-tokenizer (--pre); `names` the names of the
    checkpoint's files, needed to find additional chat templates.

    Raises InputError for missing and broken files, naming file and key; UnsupportedError for tokenizers that
    llama.cpp does not have and for unknown pre-tokenizers; UsageError for an unknown `pre`. Takes up to 3 s for a
    vocabulary of 256,000.
    """
    require_pre(pre)
    source = _open(read_file, config, rules)
    found = _read(source, rules, pre)
    files, vocabulary = source.files, with_control(found.vocabulary, rules.control)
    special = _special_tokens(source, vocabulary, rules)
    infill = _infill_tokens(source, special, rules)
    templates = find_chat_templates(read_file, files.settings, names, rules.template)
    if rules.template_wins:
        templates = replace(templates, default=rules.template)
    if vocabulary.model == RWKV and not templates.default:
        templates = replace(templates, warnings=(*templates.warnings, ("chat-template", NO_WORLD_TEMPLATE)))
    if source.file == TEKKEN and not templates.default:
        templates = replace(templates, warnings=(*templates.warnings, ("chat-template", NO_TEMPLATE)))
    prefix_first, prefix_last, prefix_warnings = _space_prefix(source, vocabulary, rules)
    said = (*special.metadata(), *templates.metadata(), *infill.metadata())
    first, last = _counted(vocabulary, config) if rules.counted else ((), ())
    never = suppressed(source.files, len(vocabulary.tokens)) if rules.suppressed else ()
    metadata = (*first, *prefix_first, *vocabulary.metadata(), *said, *prefix_last, *vocabulary.normal, *last, *never)
    kind = KINDS[vocabulary.model]
    return Tokenizer(
        metadata=metadata,
        sha256=_canonical_hash(kind, metadata, found.split),
        vocab_size=len(vocabulary.tokens),
        kind=kind,
        pre=vocabulary.pre,
        pre_found_by=found.pre_found_by,
        warnings=(*vocabulary.warnings, *special.warnings, *prefix_warnings, *templates.warnings),
    )


def _open(read_file: ReadFile, config: Mapping[str, Any], rules: TokenizerRules) -> _Source:
    files = read_tokenizer_files(read_file, config, vocabulary_size(config))
    if rules.own is not None:
        return _Source(files, None, None, None, OWN_FILES[rules.own])
    pieces = read_bytes(read_file, TOKENIZER_MODEL)
    tiktoken = pieces is not None and is_tiktoken(pieces)
    model = parse_sentencepiece(pieces) if pieces is not None and not tiktoken else None
    if rules.gemma4 or (rules.pieces and model is not None and model.model_type == UNIGRAM):
        model = None  # read as a tokenizer.json: its own, or one that is made of it
    found = open_tokenizer_json(files, beside_model=model is not None)
    if found is None and tiktoken:
        message = f"{TOKENIZER_MODEL} is a tiktoken vocabulary, which does not say how text is split"
        raise UnsupportedError(message, path=TOKENIZER_MODEL, hint=f"add the {TOKENIZER_JSON} of the same model")
    if found is None:
        return _Source(files, None, None, model)
    return _Source(found.files, found.data, found.raw, model, found.file)


def _read(source: _Source, rules: TokenizerRules, pre: str | None) -> _Read:
    if rules.own is not None:
        own = world_vocabulary if rules.own == RWKV else plamo_vocabulary
        return _Read(_without_pre(own(source.files), pre), "default", {})
    if source.model is not None and not (rules.phi and is_byte_level_class(source.files.settings)):
        vocabulary = sentencepiece_vocabulary(source.model, source.files, source.raw, phi=rules.phi)
        flags = flags_beside_model(source.files, source.raw if of_one_model(source.raw, source.model) else None)
        if not source.model.add_dummy_prefix:  # no text begins with a space
            flags = tuple(warning for warning in flags if warning[1] != FIRST_ONLY)
        vocabulary = replace(vocabulary, warnings=(*vocabulary.warnings, *flags))
        return _Read(_without_pre(vocabulary, pre), "default", _model_split(source.model))
    if source.raw is None or source.data is None:
        raise _missing(source.files.read_file)
    kind = model_kind(source.raw) if rules.pieces else None
    if kind in ("WordPiece", "Unigram"):
        return _read_pieces(source, source.raw, source.data, kind, rules, pre)
    tokenizer = parse_tokenizer_json(source.raw)
    split: dict[str, Any] = {
        "normalizer": tokenizer.normalizer,
        "pre_tokenizer": tokenizer.pre_tokenizer,
        "ignore_merges": tokenizer.ignore_merges,
        "merges": tokenizer.merge_lines,
        "added": [
            [t.index, t.content, t.special, t.normalized, t.lstrip, t.rstrip, *([True] if t.single_word else [])]
            for t in tokenizer.added
        ],
    }
    if tokenizer.byte_fallback or rules.gemma4:
        read = gemma4_vocabulary if rules.gemma4 else byte_fallback_vocabulary
        vocabulary = _without_pre(read(tokenizer, source.files), pre)
        found_by = "default"
    else:
        check_byte_level(tokenizer.decoder)
        match = find_pre(tokenizer, source.data, pre)
        vocabulary = byte_level_vocabulary(tokenizer, source.files, match.name)
        vocabulary = replace(vocabulary, warnings=(*match.warnings, *vocabulary.warnings))
        found_by = match.found_by
    added, _ = added_tokens(tokenizer, source.files)
    warnings = (
        *vocabulary.warnings,
        *flag_warnings(added, spaced=tokenizer.byte_fallback and changes_spaces(tokenizer)),
    )
    return _Read(replace(vocabulary, warnings=warnings), found_by, split)


def _read_pieces(
    source: _Source, raw: dict[str, Any], data: bytes, kind: str, rules: TokenizerRules, pre: str | None
) -> _Read:
    """An encoder's vocabulary: what else decides its split is in the sections that the hash counts."""
    from quantkit.tokenizer.unigram import UnigramTokenizer, parse_unigram, unigram_vocabulary
    from quantkit.tokenizer.wordpiece import WordPieces, parse_wordpiece, wordpiece_vocabulary

    tokenizer: WordPieces | UnigramTokenizer
    if kind == "WordPiece":
        tokenizer = parse_wordpiece(raw)
        vocabulary = wordpiece_vocabulary(tokenizer, source.files, data, pre)
        found_by, more = "hash" if pre is None else "option", [tokenizer.unk, tokenizer.longest]
    else:
        tokenizer = parse_unigram(raw)
        counted = type_count(source.files.root_config) if rules.counted else ()
        vocabulary = _without_pre(unigram_vocabulary(tokenizer, source.files, data, counted), pre)
        found_by, more = "default", [str(tokenizer.unk), int(tokenizer.byte_fallback)]
    split = {
        "normalizer": raw.get("normalizer"),
        "pre_tokenizer": raw.get("pre_tokenizer"),
        "model": more,
        "added": [[t.index, t.content, t.special, t.lstrip, t.rstrip] for t in tokenizer.added],
    }
    listed, _ = added_tokens(tokenizer, source.files)
    warnings = (*vocabulary.warnings, *flag_warnings(listed, spaced=False))
    return _Read(replace(vocabulary, warnings=warnings), found_by, split)


def _counted(vocabulary: Vocabulary, config: Mapping[str, Any]) -> tuple[tuple[KeyValue, ...], tuple[KeyValue, ...]]:
    """Where the entry with the number of token types stands, first or last in order; Unigram has it in between."""
    entry = type_count(config)
    return {"bert": (entry, ()), "t5": ((), ())}.get(vocabulary.model, ((), entry))


def type_count(config: Mapping[str, Any]) -> tuple[KeyValue, ...]:
    """The entry with the number of token types, of which BERT adds one to every token; 1 where it adds none."""
    said = said_or_default(config, "type_vocab_size")
    count = 1 if said is None else said
    if not is_index(count, 1 << 31):
        raise bad("config.json", "type_vocab_size", count, "a number")
    return (KeyValue("tokenizer.ggml.token_type_count", "u32", count),)


def _without_pre(vocabulary: Vocabulary, pre: str | None) -> Vocabulary:
    if pre is None:
        return vocabulary
    message = f"--pre {pre} has no effect: the vocabulary is SentencePiece's, which has no pre-tokenizer"
    return replace(vocabulary, warnings=(*vocabulary.warnings, ("pre-tokenizer", message)))


def _model_split(model: SentencePieceModel) -> dict[str, Any]:
    charsmap = hashlib.sha256(model.charsmap).hexdigest()
    return {"charsmap": charsmap, "dummy_prefix": model.add_dummy_prefix, "extra": model.remove_extra_whitespaces}


def _missing(read_file: ReadFile) -> InputError:
    """The error for a checkpoint without a tokenizer file that counts, naming those that lie there instead."""
    there = [name for name in OTHER_FILES if read_file(name) is not None]
    also = f" (there is {', '.join(there)}, which is not enough)" if there else ""
    message = f"the checkpoint has no tokenizer: no {TOKENIZER_MODEL} and no {TOKENIZER_JSON}{also}"
    hint = f"copy the tokenizer files of the original model here, or let transformers write a {TOKENIZER_JSON}"
    return InputError(message, path=TOKENIZER_JSON, hint=hint)


def _special_tokens(source: _Source, vocabulary: Vocabulary, rules: TokenizerRules) -> SpecialTokens:
    files, count = source.files, len(vocabulary.tokens)
    texts = {token.text: index for index, token in enumerate(vocabulary.tokens)}
    found = find_special_tokens(source.raw, files.settings, files.root_config, count, texts=texts)
    ids = {**special_map_tokens(files.special_map, files.settings, files.root_config, texts), **found.ids}
    ids = tokens_of_family(files, source.file, {**found.ids, **ids}, texts, rules)
    adds = {**(dict.fromkeys(("bos", "eos", "sep"), True) if rules.framed else {}), **found.adds}
    if rules.no_bos:
        adds.setdefault("bos", False)
    if rules.adds_bos:
        adds["bos"] = True
    if rules.prefix_setting and files.vocab_size == GRANITE_ROWS:
        adds["bos"] = False
    if vocabulary.model == "gpt2" and LLAMA_CPP[vocabulary.pre].adds_bos:
        adds.setdefault("bos", False)  # the source adds none; without the key llama.cpp would
    if vocabulary.model == GEMMA4:
        adds["bos"] = True  # llama.cpp does, whatever a file says
    if vocabulary.model in ("bert", "t5"):
        ids = {**_named_by_kind(vocabulary), **ids}
    if vocabulary.model == "t5":
        adds.setdefault("eos", False)  # llama.cpp puts an EOS after every Unigram text unless told
    if vocabulary.model == "llama" and source.model is None:
        adds.setdefault("bos", False)  # the same: llama.cpp puts a BOS before every SentencePiece text unless told
    return SpecialTokens(ids, adds, found.warnings)


def _named_by_kind(vocabulary: Vocabulary) -> dict[str, int]:
    """The tokens that a WordPiece or Unigram tokenizer cannot be without, where no file names them."""
    texts = {token.text: index for index, token in enumerate(vocabulary.tokens)}
    unknown = [index for index, token in enumerate(vocabulary.tokens) if token.kind is TokenType.UNKNOWN]
    usual = {"bos": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    found = {kind: texts[text] for kind, text in usual.items() if vocabulary.model == "bert" and text in texts}
    return {**found, "unk": unknown[0]} if unknown else found


def _infill_tokens(source: _Source, special: SpecialTokens, rules: TokenizerRules) -> SpecialTokens:
    """Code Llama, which is recognized by its number of rows, ends an infill with a token of its own."""
    files = source.files
    if not rules.prefix_setting or files.vocab_size != CODE_LLAMA_ROWS:
        return SpecialTokens({}, {})
    found = find_special_tokens(source.raw, files.settings, files.root_config, CODE_LLAMA_ROWS, CODE_LLAMA_KINDS)
    ids = {"eot": CODE_LLAMA_EOT, **found.ids}
    return SpecialTokens({kind: index for kind, index in ids.items() if kind not in special.ids}, {})


def _space_prefix(
    source: _Source, vocabulary: Vocabulary, rules: TokenizerRules
) -> tuple[tuple[KeyValue, ...], tuple[KeyValue, ...], tuple[tuple[str, str], ...]]:
    """The entry that says whether text begins with a space: first or last in order, and warnings."""
    if rules.no_prefix and vocabulary.model == "llama":
        return (), (KeyValue(SPACE_PREFIX, "bool", False),), ()
    if rules.said_prefix and source.model is not None:
        return (), (KeyValue(SPACE_PREFIX, "bool", source.model.add_dummy_prefix),), ()
    said = source.files.settings.get("add_prefix_space") if rules.prefix_setting else None
    if said is not None and not isinstance(said, bool):
        raise bad(TOKENIZER_CONFIG, "add_prefix_space", said, "true, false or null")
    if said is None:
        prefix = vocabulary.space_prefix
        return (), () if prefix is None else (KeyValue(SPACE_PREFIX, "bool", prefix),), ()
    if vocabulary.model == "gpt2" or said == (vocabulary.space_prefix is None):
        return (KeyValue(SPACE_PREFIX, "bool", said),), (), ()
    # tokenizer.json is the tokenizer; beside a tokenizer.model the setting is what transformers goes by.
    prefix = said if source.model is not None else not said
    message = f"add_prefix_space is {said} in {TOKENIZER_CONFIG}, but not in the tokenizer itself; {prefix} was written"
    return (KeyValue(SPACE_PREFIX, "bool", prefix),), (), (("tokenizer-space-prefix", message),)


def _canonical_hash(kind: str, metadata: Sequence[KeyValue], split: Mapping[str, Any]) -> str:
    entries = {entry.key: [entry.kind, entry.value] for entry in metadata}
    form = {"form": HASH_FORM, "kind": kind, "metadata": entries, "split": split}
    return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

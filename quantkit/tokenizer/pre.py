"""Under which name llama.cpp splits text as a byte-level tokenizer.json does.

The section that says how to split is compared first: it is what decides. Where several names mean the same split,
the hash of the token ids of a probe text picks the one that the reference converter would write. Where the section
is not known the hash alone decides, and where that is unknown too, only the user can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from quantkit.errors import UnsupportedError, require_choice
from quantkit.records import record
from quantkit.tokenizer.files import TOKENIZER_JSON, BpeTokenizer, Json, bad
from quantkit.tokenizer.libraries import load_tokenizer_json
from quantkit.tokenizer.native import no_panic
from quantkit.tokenizer.pre_hashes import HASHES, PROBE_TEXT
from quantkit.tokenizer.pre_table import (
    ANY_CASE,
    CONTRACTIONS,
    EACH_DIGIT,
    GPT2_STEP,
    LLAMA_CPP,
    RECOGNIZED,
    Recognized,
    Step,
)
from quantkit.untrusted import shown

UNICODE_FORMS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
SPELLINGS = (("\r", r"\r"), ("\n", r"\n"), (CONTRACTIONS, ANY_CASE), (r"\p{N}{1}|", r"\p{N}|"))
SHOWN_PATTERN = 600
PREFIX_SPACE: Step = ("prefix-space",)
ENCODED: Step = ("bytes",)


@record
class PreMatch:
    """The name found, and how: "option", "pattern" or "hash"."""

    name: str
    found_by: str
    warnings: tuple[tuple[str, str], ...] = ()


def find_pre(tokenizer: BpeTokenizer, data: bytes, override: str | None = None) -> PreMatch:
    """Find the `tokenizer.ggml.pre` of a byte-level tokenizer; `data` is its tokenizer.json.

    `override` is the user's choice (--pre). Raises UsageError for an unknown choice, UnsupportedError showing the
    section when nothing is recognized or a normalizer does what llama.cpp cannot.
    """
    warnings = [*_normalizer_warnings(tokenizer.normalizer)]
    known = recognize(tokenizer.pre_tokenizer)
    if override is not None:
        require_pre(override)
        name, found_by = override, "option"
        if known and LLAMA_CPP[known.name].patterns != LLAMA_CPP[name].patterns:
            message = f'--pre {name} splits otherwise than {TOKENIZER_JSON}, whose pattern is that of "{known.name}"'
            warnings.append(("pre-tokenizer", message))
    elif known:
        name, found_by = _by_pattern(known, tokenizer, data), "pattern"
    else:
        hashed = _by_hash(data)
        if hashed is None:
            raise _unknown(tokenizer.pre_tokenizer)
        name, found_by = hashed, "hash"
    if known and known.differs and override is None:
        message = f'llama.cpp\'s "{name}" splits some text otherwise than {TOKENIZER_JSON}: {known.differs}'
        warnings.append(("pre-tokenizer", message))
    return PreMatch(name, found_by, (*warnings, *_whole_word_warnings(tokenizer, name)))


def recognize(section: Json) -> Recognized | None:
    """The row of the table that a pre_tokenizer section is; None when there is none."""
    steps = split_steps(section)
    if ENCODED not in steps:
        return None
    plain = tuple(step for step in steps if step != ENCODED)
    return next((row for row in RECOGNIZED if _normalized(row.steps) == plain), None)


def split_steps(section: Json) -> tuple[Step, ...]:
    """The steps of a pre_tokenizer section in order, nested sequences unfolded and equal spellings made one.

    ("split", pattern) cuts out the matches of a pattern, ("digits", "each" or "runs") digits, ("punctuation",
    behavior) punctuation, ("gpt2",) is ByteLevel's own pattern and ("bytes",) its encoding; anything else is the
    step's type and its canonical JSON. Raises InputError for what is no section.
    """
    if section is None:
        return ()
    if not isinstance(section, dict):
        raise bad(TOKENIZER_JSON, "pre_tokenizer", section, "an object with a type")
    kind = section.get("type")
    if kind == "Sequence":
        listed = section.get("pretokenizers")
        if not isinstance(listed, list):
            raise bad(TOKENIZER_JSON, "pre_tokenizer.pretokenizers", listed, "a list")
        return tuple(step for each in listed for step in split_steps(each))
    if kind == "ByteLevel":
        prefix = (PREFIX_SPACE,) if section.get("add_prefix_space") is True else ()
        own = (GPT2_STEP,) if section.get("use_regex", True) is True else ()
        return (*prefix, *own, ENCODED)
    if kind == "Digits":
        return (EACH_DIGIT if section.get("individual_digits") is True else ("digits", "runs"),)
    if kind == "Punctuation":
        return (("punctuation", str(section.get("behavior", "Isolated"))),)
    pattern = section.get("pattern")
    if kind == "Split" and isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str) and _cuts(section):
        return (("split", _spelled(str(pattern["Regex"]))),)
    return ((str(kind), json.dumps(section, sort_keys=True)),)


def _cuts(split: Mapping[str, Json]) -> bool:
    """Isolating the matches, or dropping what does not match: the same for patterns that match everything."""
    return (split.get("behavior"), split.get("invert")) in (("Isolated", False), ("Removed", True))


def _spelled(pattern: str) -> str:
    for spelling, one in SPELLINGS:
        pattern = pattern.replace(spelling, one)
    return pattern


def _normalized(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(("split", _spelled(step[1])) if step[0] == "split" else step for step in steps)


def _by_pattern(known: Recognized, tokenizer: BpeTokenizer, data: bytes) -> str:
    """The name for a known section: the hash's choice among the names that split alike, else the table's.

    Names that share a pattern may differ in whether a piece that is a token is taken whole (`ignore_merges`). Where
    that matters to the vocabulary, only names that do as the source does count: the hash, in which the BOS of the
    post-processor counts, calls a Llama 3 without one "smaug-bpe", which takes no whole words.
    """
    alike = [name for name, pre in LLAMA_CPP.items() if pre.patterns == LLAMA_CPP[known.name].patterns]
    hashed = _by_hash(data) if len(alike) > 1 else None
    own = known.whole_words if tokenizer.ignore_merges and known.whole_words else known.name
    if hashed not in alike:
        return own
    whole = tokenizer.ignore_merges
    if LLAMA_CPP[hashed].whole_words == whole or LLAMA_CPP[own].whole_words != whole or not unmade(tokenizer):
        return hashed
    return own


def unmade(tokenizer: BpeTokenizer) -> int:
    """How many tokens merging alone does not make of their own text, though a merge may have them as its result.

    Takes about 3 s for 150,000 tokens.
    """
    from tokenizers.models import BPE

    model = BPE(dict(tokenizer.vocab), list(tokenizer.merges))
    added = {token.content for token in tokenizer.added}
    return sum(1 for text in tokenizer.vocab if text not in added and len(text) > 1 and len(model.tokenize(text)) != 1)


def _by_hash(data: bytes) -> str | None:
    library = load_tokenizer_json(data)
    with no_panic(TOKENIZER_JSON):
        ids = library.encode(PROBE_TEXT).ids
    return HASHES.get(hashlib.sha256(str(ids).encode()).hexdigest())


def require_pre(name: str | None) -> None:
    """Raise UsageError for a choice of --pre that llama.cpp does not know as a byte-level pre-tokenizer."""
    if name is not None:
        require_choice("--pre", name, sorted(LLAMA_CPP))


def _unknown(section: Json) -> UnsupportedError:
    pattern = json.dumps(section, ensure_ascii=False)
    message = f"{TOKENIZER_JSON}: unknown pre-tokenizer {shown(pattern, SHOWN_PATTERN)}"
    hint = "if you know which llama.cpp pre-tokenizer splits alike, name it: --pre NAME (for instance --pre llama-bpe)"
    return UnsupportedError(message, path=TOKENIZER_JSON, key="pre_tokenizer", hint=hint)


def _normalizer_warnings(section: Json) -> list[tuple[str, str]]:
    """llama.cpp normalizes nothing before byte-level BPE."""
    if section is None:
        return []
    steps: list[Json] = [section]
    if isinstance(section, dict) and section.get("type") == "Sequence":
        listed = section.get("normalizers")
        steps = listed if isinstance(listed, list) else [listed]
    warnings = []
    for step in steps:
        kind = step.get("type") if isinstance(step, dict) else None
        if not isinstance(kind, str) or kind not in UNICODE_FORMS:
            message = f"{TOKENIZER_JSON}: normalizer {shown(json.dumps(step), SHOWN_PATTERN)} has no like in llama.cpp"
            raise UnsupportedError(message, path=TOKENIZER_JSON, key="normalizer", hint="it cannot be written")
        message = f"{TOKENIZER_JSON} applies {kind}, llama.cpp does not: text that it changes is split differently"
        warnings.append(("tokenizer-normalizer", message))
    return warnings


def _whole_word_warnings(tokenizer: BpeTokenizer, name: str) -> list[tuple[str, str]]:
    """Taking whole words without merging matters for tokens that merging does not make."""
    if tokenizer.ignore_merges == LLAMA_CPP[name].whole_words:
        return []
    count = unmade(tokenizer)
    if not count:
        return []
    does = "does not take" if tokenizer.ignore_merges else "takes"
    message = f'{count:,} tokens are not made by merging; llama.cpp\'s "{name}" {does} them as whole words'
    return [("pre-tokenizer", message)]

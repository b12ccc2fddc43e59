"""What a normalizer and a pre-tokenizer do with spaces, found by running them on short texts.

A section may be spelled in many ways and do the same; only what comes out decides whether llama.cpp can do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from quantkit.errors import InputError
from quantkit.tokenizer.files import TOKENIZER_JSON, BpeTokenizer, Json
from quantkit.tokenizer.libraries import load_tokenizer_json
from quantkit.tokenizer.native import no_panic
from quantkit.tokenizer.vocabulary import SPACE

MAX_SECTION = 1 << 12  # bytes of JSON; real sections have some 200
PLAIN = (
    "a", " a", "  a", "a b", "a  b ", "a b  c   d", "A1 b22", "12 345", "a.b, c!", "\na\n b", "\t a\t", "don't",
    "a\u2581b", "\u2581 a", " ", "   ", "x\r\ny", "fa\u00e7ade", "<b> c", "_a_ -b-",
)  # fmt: skip
UNICODE = ("e\u0301", "\ufb01x", "\u2167 a", "\u00a0a", "\u3000a\u3000", "\uff21b", "a\u200bb", "\u212b")

Rule = Callable[[str], str]
RULES: tuple[tuple[str, Rule], ...] = (
    ("always", lambda text: SPACE + text),
    ("never", lambda text: text),
    ("unless", lambda text: text if text.startswith(SPACE) else SPACE + text),
)


def effect(tokenizer: BpeTokenizer) -> tuple[str, bool] | None:
    """When a space is put before text ("always", "never", "unless" it begins with one), and whether Unicode is changed.

    None for sections that do anything else: spaces that do not become U+2581, text that changes, cuts within words.
    """
    run = _runner(tokenizer.normalizer, tokenizer.pre_tokenizer)
    if run is None:
        return None
    for name, rule in RULES:
        if all(run(text) == rule(text.replace(" ", SPACE)) for text in PLAIN):
            changed = any(run(text) != rule(text.replace(" ", SPACE)) for text in UNICODE)
            return name, changed
    return None


def _runner(normalizer: Json, pre_tokenizer: Json) -> Rule | None:
    """Normalizing and cutting as one function of the text; cuts within words show as U+FFFF."""
    model: Mapping[str, Json] = {"type": "BPE", "vocab": {}, "merges": []}
    raw = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    data = json.dumps({**raw, "model": model}).encode()
    if len(data) > MAX_SECTION:
        return None
    try:
        library = load_tokenizer_json(data)
    except InputError:
        return None
    normal, pre = library.normalizer, library.pre_tokenizer

    def run(text: str) -> str:
        with no_panic(TOKENIZER_JSON):
            changed = normal.normalize_str(text) if normal is not None else text
            pieces = [piece for piece, _ in pre.pre_tokenize_str(changed)] if pre is not None else [changed]
        joined = pieces[0] if pieces else ""
        for piece in pieces[1:]:
            joined += piece if piece.startswith(SPACE) else "\uffff" + piece
        return joined

    return run

"""Flags of added tokens that llama.cpp does not have, and what they change.

llama.cpp finds special tokens in the text as it is, wherever they stand, and keeps what lies beside them. The flags of
`tokenizers.AddedToken` say otherwise, and tokenizers that put a space before text do so once or after every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quantkit.tokenizer.files import AddedToken, BpeTokenizer, TokenizerFiles, parse_added, read_settings_added
from quantkit.untrusted import shown

CODE = "tokenizer-added"
FIRST_ONLY = "the source puts a space before the first text only, llama.cpp also after special tokens"
PHI3_NAME = ' (except where the model\'s name has "phi3" in it: then it drops those after nearly all special tokens)'

Flag = Callable[[AddedToken], bool]


def flag_warnings(tokens: Iterable[AddedToken], *, spaced: bool) -> tuple[tuple[str, str], ...]:
    """What the flags of added tokens change. `spaced`: normalizing puts a space before text or changes spaces."""
    listed = list(tokens)
    rules: tuple[tuple[Flag, str], ...] = (
        (lambda t: t.lstrip or t.rstrip, f"the source drops spaces beside this token, llama.cpp keeps them{PHI3_NAME}"),
        (lambda t: t.single_word, "the source finds this token only where a word ends, llama.cpp inside words too"),
        (
            lambda t: t.normalized and spaced,
            "the source finds this token after normalizing (normalized), llama.cpp before: it is found elsewhere, and "
            "text after it is split differently",
        ),
    )
    found = []
    for flag, what in rules:
        flagged = list(dict.fromkeys(token.content for token in listed if flag(token)))
        if flagged:
            who = f'"{shown(flagged[0])}"' + (f" and {len(flagged) - 1:,} more" if len(flagged) > 1 else "")
            found.append((CODE, f"{who}: {what}"))
    return tuple(found)


def flags_beside_model(files: TokenizerFiles, raw: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """The same for a folder whose tokenizer is a tokenizer.model: what the other files say of its tokens.

    Whether text after special tokens begins with a space is tokenizer.json's rule, and without one that of `legacy` in
    tokenizer_config.json (transformers' LlamaTokenizer).
    """
    listed = (*read_settings_added(files.settings), *parse_added(raw))
    found = flag_warnings(listed, spaced=_puts_space((raw or {}).get("normalizer")))
    legacy = files.settings.get("legacy") is not False
    if not legacy if raw is None else _first_only(raw.get("pre_tokenizer")):
        found = (*found, ("tokenizer-space-prefix", FIRST_ONLY))
    return found


def changes_spaces(tokenizer: BpeTokenizer) -> bool:
    """Whether the normalizer, which tokens that are normalized go through as well, puts or replaces spaces."""
    return _puts_space(tokenizer.normalizer)


def _steps(section: object, key: str) -> list[Mapping[str, Any]]:
    listed = section.get(key) if isinstance(section, dict) and section.get("type") == "Sequence" else [section]
    return [step for step in listed if isinstance(step, dict)] if isinstance(listed, list) else []


def _puts_space(normalizer: object) -> bool:
    return any(step.get("type") in ("Prepend", "Replace") for step in _steps(normalizer, "normalizers"))


def _first_only(pre_tokenizer: object) -> bool:
    return any(step.get("prepend_scheme") == "first" for step in _steps(pre_tokenizer, "pretokenizers"))

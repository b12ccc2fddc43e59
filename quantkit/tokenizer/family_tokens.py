"""What a family knows of its special tokens, beside what the files of a checkpoint say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.families.rows import TokenizerRules
from quantkit.metadata import KeyValue
from quantkit.tokenizer.files import TokenizerFiles, bad, is_index
from quantkit.tokenizer.vocabulary import TokenType, Vocabulary
from quantkit.untrusted import parse_json_object

GENERATION = "generation_config.json"


def tokens_of_family(
    files: TokenizerFiles, name: str, ids: Mapping[str, int], texts: Mapping[str, int], rules: TokenizerRules
) -> dict[str, int]:
    """Special tokens by kind with what the family knows of them; `name` is the file of the vocabulary.

    Raises InputError for a token that the vocabulary lacks.
    """
    if absent := [text for text in rules.named.values() if text not in texts]:
        message = f'the vocabulary has no token "{absent[0]}", which every model of its family has'
        raise InputError(message, path=name, key="added_tokens", hint="is this the tokenizer of the model?")
    found = {**{kind: texts[text] for kind, text in rules.named.items()}, **ids, **rules.ids}
    if rules.chat_end is not None and rules.chat_end in texts and "eos" in found:
        found["eos"] = texts[rules.chat_end]
    if rules.both_ends is not None and rules.both_ends in texts:
        found |= dict.fromkeys(("bos", "eos"), texts[rules.both_ends])
    if rules.end_key is not None:
        said = files.config.get(rules.end_key)
        if is_index(said, len(texts)):
            found["eos"] = int(said)  # type: ignore[arg-type]
        ends = _generation(files).get("eos_token_id")
        if isinstance(ends, list) and len(ends) > 1 and is_index(ends[0], len(texts)):
            found["eot"] = int(ends[0])
    ends = files.root_config.get("eos_token_id")
    if rules.turn_end and isinstance(ends, list):
        first = files.root_config.get("bos_token_id")
        turn = next((end for end in ends if end != first and is_index(end, len(texts))), None)
        found |= {} if turn is None else {"eot": int(turn)}
    return found


def with_control(vocabulary: Vocabulary, texts: tuple[str, ...]) -> Vocabulary:
    """The vocabulary with the tokens of these texts as control tokens, whatever the files call them."""
    if not texts:
        return vocabulary
    tokens = (replace(t, kind=TokenType.CONTROL) if t.text in texts else t for t in vocabulary.tokens)
    return replace(vocabulary, tokens=tuple(tokens))


def suppressed(files: TokenizerFiles, count: int) -> tuple[KeyValue, ...]:
    """The tokens that are never chosen. Raises InputError for what is no list of tokens."""
    said = _generation(files).get("suppress_tokens")
    if said is None:
        return ()
    if not isinstance(said, list) or not said or not all(is_index(index, count) for index in said):
        raise bad(GENERATION, "suppress_tokens", said, f"ids below {count:,}")
    return (KeyValue("tokenizer.ggml.suppress_tokens", "i32", tuple(said), array=True),)


def _generation(files: TokenizerFiles) -> Mapping[str, Any]:
    """generation_config.json, {} where there is none that can be read."""
    try:
        return parse_json_object(files.read_file(GENERATION) or b"{}", Path(GENERATION))
    except InputError:
        return {}

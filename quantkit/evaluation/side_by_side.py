"""What two models write behind the same prompts, greedily, and where their texts part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.spec import embedding_rows
from quantkit.errors import InputError
from quantkit.evaluation.artifacts import text_of
from quantkit.evaluation.generation import Until, continuations
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, ignore
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.untrusted import parse_json_object

GENERATION = "generation_config.json"
EOS = "eos_token_id"


@record
class Continued:
    """A prompt and what both models put behind it: `tokens` are how many each has, the first `same` of them equal."""

    prompt: str
    a: str
    b: str
    same: int
    tokens: tuple[int, int]

    @property
    def equal(self) -> bool:
        return self.tokens[0] == self.tokens[1] == self.same

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "same_tokens": self.same,
            "a_tokens": self.tokens[0],
            "b_tokens": self.tokens[1],
        }


def side_by_side(
    sides: tuple[Side, Side],
    source: Checkpoint,
    prompts: Sequence[str],
    length: int,
    *,
    threads: int | None = None,
    emit: Sink = ignore,
) -> tuple[Continued, ...]:
    """What both put behind each prompt, at most `length` tokens; `source` says how text is cut and what ends one.

    Raises InputError for a prompt without a token, and what `continuations` raises.
    """
    tokens = model_tokens(source, embedding_rows(source))
    start = [] if tokens.bos is None else [tokens.bos]
    asked = [_framed(start, list(tokens.encode(prompt)), number) for number, prompt in enumerate(prompts, 1)]
    until = Until(_ends(source))
    one, two = continuations(sides, asked, length, until=until, threads=threads, emit=emit)
    text = text_of(source)
    return tuple(
        _continued(prompt, ids, (list(here), list(there)), text)
        for prompt, ids, here, there in zip(prompts, asked, one, two, strict=True)
    )


def _framed(start: list[int], ids: list[int], number: int) -> list[int]:
    if not ids:
        raise InputError(f"prompt {number} has no token to continue", key="prompt", hint="give it some text")
    return ids if ids[: len(start)] == start else [*start, *ids]


def _continued(
    prompt: str, ids: list[int], written: tuple[list[int], list[int]], text: Callable[[list[int]], str]
) -> Continued:
    here, there = written
    shorter = min(len(here), len(there))
    same = next((at for at in range(shorter) if here[at] != there[at]), shorter)
    before = text(ids)
    a, b = (_behind(before, text([*ids, *each]), text(each)) for each in written)
    return Continued(prompt, a, b, same, (len(here), len(there)))


def _behind(before: str, whole: str, alone: str) -> str:
    """What stands behind the prompt: with the space that tokenizers drop where text begins."""
    return whole[len(before) :] if whole.startswith(before) else alone


def _ends(source: Checkpoint) -> frozenset[int]:
    """The tokens that end a text, as generation_config.json or config.json names them."""
    raw = source.read_file(GENERATION)
    try:
        said = parse_json_object(raw, Path(GENERATION)) if raw else {}
    except InputError:
        said = {}
    given = said.get(EOS, source.config.get(EOS))
    values = given if isinstance(given, list) else [given]
    return frozenset(value for value in values if isinstance(value, int) and not isinstance(value, bool))

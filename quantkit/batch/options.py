"""The options of `quantkit convert` that a matrix may give: keys, kinds, and how a command line has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

from quantkit.records import record

Value = str | int | float | bool | tuple[str, ...]
Options = Mapping[str, Value]

SHIPPED_TEXT = "default"  # a name of --calib that is no file


@record
class Option:
    """One option. `kind` is text, texts, whole, number, flag, or switch, which is also given to say no; the values of
    `files` are paths, of the matrix's folder. `field` is what `Request` or `Output` calls it."""

    key: str
    kind: str
    files: bool = False
    field: str = ""

    @property
    def name(self) -> str:
        """As the command line has it."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def known_as(self) -> str:
        return self.field or self.key


def _of(kind: str, *keys: str, files: bool = False) -> tuple[Option, ...]:
    return tuple(Option(key, kind, files) for key in keys)


OPTIONS: dict[str, Option] = {
    option.key: option
    for option in (
        Option("for", "texts", field="consumers"),
        Option("adapter", "texts", True, "adapters"),
        Option("gate", "texts", field="gates"),
        *_of("texts", "keep"),
        *_of("texts", "calib", "eval_data", files=True),
        *_of("text", "imatrix", "sensitivity", "base", files=True),
        *_of("text", "on_fallback", "output_type", "embedding_type", "split_max_size", "target_size", "mmproj", "pre"),
        *_of("text", "method", "max_shard_size", "device", "activations", "engine"),
        *_of("whole", "samples", "seqlen", "tp"),
        *_of("number", "target_bpw", "max_kld", "require_coverage"),
        *_of("switch", "feedback_head", "feedback_embedding", "even_columns", "refit_norms"),
        *_of("flag", "allow_requantize", "allow_other_base", "pure", "preserve", "card", "verify", "offline"),
    )
}
OF_OUTPUT = ("gate", "eval_data", "engine", "verify")  # the others are of the request
WANTED = {
    "text": "a string",
    "texts": "a string or an array of strings",
    "whole": "an integer from 1",
    "number": "a number",
    "flag": "true or false",
    "switch": "true or false",
}


def value_of(option: Option, given: object) -> Value | None:
    """The value of an option as TOML has it; None for one of another kind."""
    match option.kind:
        case "flag" | "switch":
            return given if isinstance(given, bool) else None
        case "whole":
            return given if type(given) is int and 1 <= given < 1 << 53 else None
        case "number":
            return _number(given)
        case "text":
            return given if isinstance(given, str) and given else None
    texts = [given] if isinstance(given, str) else given
    return tuple(texts) if isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts) else None


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if abs(given) < 1 << 53 and isfinite(given) else None


def arguments(options: Options) -> Iterator[str]:
    """Options as arguments of `quantkit convert`, in the order of the table: equal options, equal arguments."""
    for key, option in OPTIONS.items():
        if key not in options:
            continue
        value = options[key]
        if key == "verify":
            yield from () if value else ("--no-verify",)
        elif option.kind == "switch":
            yield option.name if value else f"--no-{option.name.removeprefix('--')}"
        elif isinstance(value, bool):
            yield from (option.name,) if value else ()
        elif key == "for" and isinstance(value, tuple):
            yield f"{option.name}={','.join(value)}"
        else:
            yield from (f"{option.name}={one}" for one in (value if isinstance(value, tuple) else (value,)))

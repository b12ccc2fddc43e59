"""What compare, card and modelfile print."""

from __future__ import annotations

from typing import TypedDict


class TypeTotal(TypedDict):
    type: str
    tensors: int
    weights: int
    bytes: int


class ComparedModel(TypedDict):
    """One of the two models; bytes are those of its files with weights."""

    name: str
    path: str
    kind: str
    bytes: int
    types: list[TypeTotal]


class StoredAs(TypedDict):
    type: str
    shape: list[int]
    bytes: int


class DifferingTensor(TypedDict):
    """A tensor that both have and that is not equal. `same_bytes` is null where the two are stored in ways that share
    no bytes. `relative_error` is the squared distance of a from b relative to the squared length of b, null where it
    cannot be told."""

    name: str
    a: StoredAs
    b: StoredAs
    same_bytes: bool | None
    relative_error: float | None
    largest: float | None


class TypePair(TypedDict):
    """Tensors that a stores in one type and b in another (or the same)."""

    a: str
    b: str
    tensors: int
    equal: int
    relative_error: float | None


class ComparedTensors(TypedDict):
    compared: int
    equal: int
    only_a: list[str]
    only_b: list[str]
    by_type: list[TypePair]
    differing: list[DifferingTensor]


class ComparedKey(TypedDict):
    """An entry that differs, in words; null where one has no such entry."""

    key: str
    a: str | None
    b: str | None


class ComparedTokenizers(TypedDict):
    """`equal` is null where nobody can tell, and `difference` says why."""

    equal: bool | None
    difference: str


class ComparedText(TypedDict):
    """What both put behind a prompt; the first `same_tokens` are equal."""

    prompt: str
    a: str
    b: str
    equal: bool
    same_tokens: int
    a_tokens: int
    b_tokens: int


class Compare(TypedDict):
    """Of compare: what two models have in common, and where they differ."""

    a: ComparedModel
    b: ComparedModel
    equal: bool
    tensors: ComparedTensors
    metadata: list[ComparedKey]
    tokenizer: ComparedTokenizers
    text: list[ComparedText]
    seconds: float


class Cards(TypedDict):
    """Of card: the paths of the cards that were written."""

    cards: list[str]


class MadeModelfile(TypedDict):
    """A Modelfile for a GGUF file: `template` null where there is none, `proved` on so many conversations; `text` is
    the whole file, `command` makes a model of it and runs that."""

    path: str
    file: str
    written: bool
    template: str | None
    proved: int
    stop: list[str]
    parameters: dict[str, float]
    system: str | None
    notes: list[str]
    text: str
    command: str


class Modelfiles(TypedDict):
    """Of modelfile, and with --dry-run what would be written."""

    modelfiles: list[MadeModelfile]

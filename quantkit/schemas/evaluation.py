"""What eval prints."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Estimate(TypedDict):
    """A mean, its standard error, and the one-sided 95 % confidence bounds; null without two clusters."""

    value: float
    standard_error: float | None
    low: float | None
    high: float | None


class Block(TypedDict):
    block: str
    relative_error: float


class Slice(TypedDict):
    by: str
    slice: str
    tokens: int
    kl: Estimate
    top1_agreement: float
    perplexity_ratio: float


class Choice(TypedDict):
    """A token of a passage, and what both models put first in its place."""

    text: str
    reference: str
    artifact: str
    same: bool
    kl: float


class Bin(TypedDict):
    """How many tokens diverge by `low` nats or more and less than `high`, null without an end."""

    low: float
    high: float | None
    tokens: int


class Stored(TypedDict):
    """All tensors of one kind and type; `blocks` are the numbers of the blocks that they are in."""

    kind: str
    type: str
    blocks: list[int]
    tensors: int
    weights: int
    bytes: int


class Passage(TypedDict):
    """Probabilities are geometric means over the right tokens."""

    document: int
    window: int
    position: int
    tokens: int
    kl: float
    reference_probability: float
    probability: float
    before: str
    text: str
    choices: NotRequired[list[Choice]]


class Furthest(TypedDict):
    """A weight and its squared distance from the original's, relative to its length."""

    tensor: str
    type: str
    relative_error: float


class Damaged(TypedDict):
    tensor: str
    type: str
    why: str


class Weights(TypedDict):
    compared: int
    furthest: list[Furthest]
    damaged: list[Damaged]


class Gate(TypedDict):
    gate: str
    metric: str
    value: float
    bound: float
    limit: float
    how: str
    ok: bool


class Rate(Estimate):
    """A share of `prompts` prompts, of the artifact with its bounds, and of the original."""

    prompts: int
    reference: float


class PromptKind(TypedDict):
    """The prompts of one kind: how many, how many continuations are identical, the mean share of equal tokens before
    the first that differs, the mean KL divergence, and of the `expecting` ones how many pass."""

    kind: str
    prompts: int
    identical: int
    divergence: float
    kl: float
    expecting: int
    reference_passed: int
    passed: int


class Expected(TypedDict):
    kind: str
    reference: bool
    artifact: bool


class Answer(TypedDict):
    """A prompt: as it was written for the model, both continuations, and how many tokens are equal before the first
    that differs. `kl` is the mean over the original's continuation; `passed` is null without expectations."""

    id: str
    kind: str
    prompt: str
    reference_text: str
    text: str
    reference_tokens: int
    tokens: int
    equal_tokens: int
    identical: bool
    kl: float
    reference_passed: bool | None
    passed: bool | None
    expectations: list[Expected]


class Task(TypedDict):
    """A metric of a task of a harness, of the artifact and of the original, with the harness's standard errors."""

    task: str
    metric: str
    documents: int
    value: float
    standard_error: float | None
    reference: float
    reference_standard_error: float | None


class Prompts(TypedDict):
    """A set of prompts. `tokens` is the most that a continuation has, `templated` counts the prompts that the chat
    template wrote; `divergence` is the mean share of the original's tokens before the first that differs. `lost` counts
    the prompts that the original passes and the artifact does not, `gained` the others; `worst` are ids."""

    set: str
    sha256: str
    count: int
    tokens: int
    templated: int
    divergence: Estimate
    identical: Estimate
    kl: Estimate
    rates: dict[str, Rate | None]
    lost: int
    gained: int
    kinds: list[PromptKind]
    worst: list[str]
    answers: list[Answer]


class CalibratedOn(TypedDict):
    """Text that an artifact was calibrated on: `sha256` over all of its files together, and what of the text at hand is
    in it."""

    name: str
    sha256: str | None
    token_sha256: str | None
    same_text: bool
    seen_documents: int


class InEngine(TypedDict):
    """The engine that an artifact ran in, and its KL divergence from our own run of the same weights."""

    name: str
    version: str
    own_kl: Estimate


class Evaluated(TypedDict):
    """One artifact; `held_out` is null where no manifest says what it was calibrated on."""

    name: str
    path: str
    bytes: int
    inputs: str
    recipe: str | None
    identity: str | None
    held_out: bool | None
    calibration: list[CalibratedOn]
    tokens: int
    clusters: int
    cluster: str
    perplexity: Estimate
    reference_perplexity: Estimate
    perplexity_ratio: Estimate
    kl: Estimate
    kl_quantiles: dict[str, float]
    top1_agreement: Estimate
    right_token_rms_change: Estimate
    accuracy: float
    reference_accuracy: float
    blocks: list[Block]
    slices: list[Slice]
    worst: list[Passage]
    kl_histogram: NotRequired[list[Bin]]
    storage: NotRequired[list[Stored]]
    engine: NotRequired[InEngine | None]
    weights: Weights | None
    prompts: Prompts | None
    tasks: list[Task] | None
    ok: bool
    gates: list[Gate]


class ReferenceFile(TypedDict):
    name: str
    bytes: int
    sha256: str
    weights: bool


class Reference(TypedDict):
    """The model that was measured against; `sha256` is over the hashes of all of its files."""

    kind: str
    name: str
    repo: str | None
    commit: str | None
    quantized: bool
    sha256: str
    files: list[ReferenceFile]


class Data(TypedDict):
    name: str
    sha256: str
    token_sha256: str
    documents: int
    documents_in_data: int
    windows: int
    window: int
    score: str
    tokens: int
    bos: int | None


class Eval(TypedDict):
    """Of eval: how far each artifact is from the original, and what its gates say. `time` is when it ended, in UTC."""

    version: str
    time: NotRequired[str]
    reference: Reference
    data: Data
    artifacts: list[Evaluated]
    ok: bool
    seconds: float


class PromptHistory(TypedDict):
    """Of a set of prompts in a history: its figures, without the texts."""

    set: str
    sha256: str
    count: int
    identical: Estimate
    divergence: Estimate
    rates: dict[str, Rate | None]
    lost: int
    gained: int


class HistoryLine(TypedDict):
    """A line of a file of --append: one measurement of one artifact. `reference` and `data` are hashes, `engine` is
    null for our own run, `held_out` as of the artifact."""

    time: str
    version: str
    name: str
    recipe: NotRequired[str | None]
    identity: str | None
    bytes: int
    reference: str
    data: str
    engine: NotRequired[str | None]
    held_out: NotRequired[bool | None]
    tokens: int
    kl: Estimate
    kl_quantiles: dict[str, float]
    perplexity: Estimate
    perplexity_ratio: Estimate
    top1_agreement: Estimate
    prompts: NotRequired[PromptHistory | None]
    ok: bool


class Report(TypedDict):
    """Of report: the file that was written, and how much it shows."""

    file: str
    bytes: int
    artifacts: int
    runs: int

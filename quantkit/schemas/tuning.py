"""What is printed and stored of types for a target: costs by type, and what was chosen."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class TypeCost(TypedDict):
    """A type, the bytes of a tensor with it, and the KL divergence that it adds, in nats per token."""

    type: str
    bytes: int
    kld: float


class JudgedCost(TypeCost):
    """The same, and what it adds on the middle half of text of other kinds, where that was measured."""

    elsewhere: NotRequired[float]


class Allotted(TypeCost):
    """The type that a tensor was given, its share of all that is predicted to be lost, and the types beside it."""

    name: str
    share: float
    smaller: TypeCost | None
    larger: TypeCost | None


class Elsewhere(TypedDict):
    """Text of other kinds than that of the calibration, which what types cost was judged by as well."""

    name: str
    sha256: str
    seqlen: int
    tokens: int
    token_sha256: str


class PredictedElsewhere(Elsewhere):
    """The same, and what is predicted to be lost there, on the middle half of its windows; `perplexity` is how well the
    model itself reads these."""

    predicted_kld: float
    standard_error: float | None
    perplexity: NotRequired[float | None]


class OfPreset(TypedDict):
    """The same of the recipe's own types."""

    tensor_bytes: int
    predicted_kld: float


class Loss(TypedDict):
    """What a file really loses on a text: its name, and the hash of its data, as a prediction has them."""

    name: NotRequired[str]
    sha256: NotRequired[str]
    tokens: int
    kld: float
    standard_error: float | None


class MeasuredLoss(Loss):
    """The same where it has a bound; `held_out` says whether it was calibrated on other text, `elsewhere` is what it
    loses on text of other kinds."""

    held_out: bool
    elsewhere: NotRequired[Loss]


class Allocation(TypedDict):
    """What a target was spent on; bytes are those of the tensors whose types were free. What is predicted holds for
    text like that of the calibration; its standard error is over windows of that text."""

    target: dict[str, str]
    predicted_kld: float
    standard_error: float | None
    perplexity: NotRequired[float | None]
    calibration: dict[str, Any]
    elsewhere: NotRequired[PredictedElsewhere]
    tensor_bytes: int
    preset: OfPreset
    sensitivity: str
    tensors: list[Allotted]
    measured: NotRequired[MeasuredLoss]


class TensorCost(TypedDict):
    """A tensor, its type by the recipe, and what each type costs it."""

    name: str
    role: str
    layer: int | None
    shape: list[int]
    type: str
    options: list[JudgedCost]


class Sensitivity(TypedDict):
    """Of sensitivity, and the file that it writes."""

    model: str
    source: dict[str, Any]
    recipe: str
    method: str
    calibration: dict[str, Any]
    learned_tokens: int
    judged_tokens: int
    tensors: list[TensorCost]
    standard_error: NotRequired[float]
    elsewhere: NotRequired[Elsewhere]
    elsewhere_standard_error: NotRequired[float]
    perplexity: NotRequired[float]
    elsewhere_perplexity: NotRequired[float]
    seal: str


class SensitivityPlan(TypedDict):
    """Of sensitivity with --dry-run."""

    recipe: str
    method: str
    tensors: int
    types: int
    learned_tokens: int
    judged_tokens: int
    elsewhere_tokens: int
    memory_bytes: int
    seconds: float
    would_write: str | None

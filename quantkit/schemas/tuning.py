"""What is printed and stored of types for a target: costs by type, and what was chosen."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class TypeCost(TypedDict):
    """A type, the bytes of a tensor with it, and the KL divergence that it adds, in nats per token."""

    type: str
    bytes: int
    kld: float


class Allotted(TypeCost):
    """The type that a tensor was given, its share of all that is predicted to be lost, and the types beside it."""

    name: str
    share: float
    smaller: TypeCost | None
    larger: TypeCost | None


class OfPreset(TypedDict):
    """The same of the recipe's own types."""

    tensor_bytes: int
    predicted_kld: float


class MeasuredLoss(TypedDict):
    """What a file really loses, where it has a bound; `held_out` says whether it was calibrated on other text."""

    tokens: int
    held_out: bool
    kld: float
    standard_error: float | None


class Allocation(TypedDict):
    """What a target was spent on; bytes are those of the tensors whose types were free."""

    target: dict[str, str]
    predicted_kld: float
    tensor_bytes: int
    preset: OfPreset
    sensitivity: str
    calibration: dict[str, Any]
    tensors: list[Allotted]
    measured: NotRequired[MeasuredLoss]


class TensorCost(TypedDict):
    """A tensor, its type by the recipe, and what each type costs it."""

    name: str
    role: str
    layer: int | None
    shape: list[int]
    type: str
    options: list[TypeCost]


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
    seal: str


class SensitivityPlan(TypedDict):
    """Of sensitivity with --dry-run."""

    recipe: str
    method: str
    tensors: int
    types: int
    learned_tokens: int
    judged_tokens: int
    memory_bytes: int
    seconds: float
    would_write: str | None

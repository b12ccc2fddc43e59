"""What is left of a grid and of zeros after encoding."""

from __future__ import annotations

from quantkit.records import record


@record
class Kept:
    """What is left of the grid and of the zeros of some weights, in blocks and in weights."""

    blocks: int = 0
    exact: int = 0
    weights: int = 0
    zeros: int = 0
    zeros_kept: int = 0
    zeros_after: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            self.blocks + other.blocks,
            self.exact + other.exact,
            self.weights + other.weights,
            self.zeros + other.zeros,
            self.zeros_kept + other.zeros_kept,
            self.zeros_after + other.zeros_after,
        )

    def as_facts(self) -> dict[str, float | int | str]:
        """What the journal, and then the manifest, says of a tensor."""
        return {
            "blocks": self.blocks,
            "exact_blocks": self.exact,
            "weights": self.weights,
            "zeros": self.zeros,
            "zeros_kept": self.zeros_kept,
            "zeros_after": self.zeros_after,
        }

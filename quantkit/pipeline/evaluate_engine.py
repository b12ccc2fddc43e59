"""What eval says of the engine that it ran artifacts in."""

from __future__ import annotations

from typing import Any

from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.figures import Estimate, clusters_of, estimate
from quantkit.evaluation.scores import Scores
from quantkit.records import record


@record
class InEngine:
    """The engine whose predictions the figures are of, and its KL divergence from our own run of the same weights."""

    name: str
    version: str
    own: Estimate

    @property
    def words(self) -> str:
        """ "llama.cpp 2026.10: KL 0.0041 ± 0.0003 from our own run of these weights"."""
        error = "" if self.own.error is None else f" ± {self.own.error:.2g}"
        return f"{self.name} {self.version}: KL {self.own.value:.3g}{error} from our own run of these weights"

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "own_kl": self.own.as_json()}


def in_engine(scores: Scores, corpus: Corpus) -> InEngine | None:
    """What is known of the engine, None where there was none."""
    if scores.own is None or scores.engine is None:
        return None
    return InEngine(*scores.engine, estimate(scores.own, clusters_of(corpus)[0]))

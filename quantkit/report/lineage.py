"""Where the weights of an artifact came from, further back than its source: adapters, and what the source's card says.

quantized from      the source, by its manifest
merged with         a LoRA adapter, by the manifest
derived from        the model that the source was made from, by its card: finetune, merge, adapter, quantized
distilled           the source learned from a larger model, by its card's tags or its name
quantization-aware  the source was trained to be rounded, likewise
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from quantkit.records import record

RELATIONS = ("adapter", "merge", "quantized", "finetune")  # of the Hub's base_model_relation
WORDS = {
    "distilled": re.compile(r"(?:.*[-_ ])?(?:knowledge[-_ ])?distill?(?:ed|ation|ing)?(?:[-_ ].*)?", re.IGNORECASE),
    "quantization-aware": re.compile(
        r"(?:.*[-_ ])?(?:qat|quanti[sz]ation[-_ ]aware(?:[-_ ]training)?)(?:[-_ ].*)?", re.IGNORECASE
    ),
}
MAX_NAME = 200


@record
class Ancestor:
    """A step back. `relation` is one of the words above, with derived ones that of the Hub; `by` says who says so:
    "manifest", "card", "header" or "name"."""

    relation: str
    name: str
    by: str
    repo: str | None = None
    commit: str | None = None
    sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "relation": self.relation,
            "name": self.name,
            "repo": self.repo,
            "commit": self.commit,
            "sha256": self.sha256,
            "by": self.by,
        }


def trained_as(name: str, tags: Iterable[str], by: str) -> Iterator[Ancestor]:
    """How a model was trained, as far as its tags or its name say; `by` is where the tags are from."""
    said = list(tags)
    for relation, word in WORDS.items():
        tag = next((tag for tag in said if word.fullmatch(tag[:MAX_NAME])), None)
        if tag is not None:
            yield Ancestor(relation, name, by)
        elif word.fullmatch(name[:MAX_NAME]):
            yield Ancestor(relation, name, "name")

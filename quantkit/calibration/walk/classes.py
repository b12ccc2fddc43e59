"""The head of a classifier or reranker, in transformers' own code: from the vectors of a whole text to its scores."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import Linear
from quantkit.calibration.walk.model import BlockModel
from quantkit.calibration.walk.resident import Resident, load_parameters
from quantkit.calibration.walk.settings import sensible_settings
from quantkit.calibration.walk.weights import held_by, locate

# Model types whose heads llama.cpp computes as transformers does: in DistilBERT's it has tanh in the place of ReLU.
JUDGING = frozenset({"bert", "modernbert", "roberta", "xlm-roberta"})
SETTINGS = ("classifier_activation", "classifier_bias", "classifier_pooling")  # of no use to anything but the head


class _Given(nn.Module):
    """In the place of a model without its head: gives vectors that are known, and what its own pooler makes of them."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.vectors = torch.empty(0)

    def forward(self, *_: object, **__: object) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled = None if self.pooler is None else self.pooler(self.vectors)
        return BaseModelOutputWithPooling(last_hidden_state=self.vectors, pooler_output=pooled)


def load_classes(model: BlockModel, labels: int) -> Resident | None:
    """What makes scores (1, labels) of the vectors (1, tokens, hidden) of a text; None for a head that is computed
    otherwise elsewhere. Raises InputError for a checkpoint without its tensors, and for settings that make no sense."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.skeleton.model.config)
    if config.model_type not in JUDGING:
        return None
    config.num_labels = labels
    with sensible_settings():
        for key in SETTINGS:
            if type(value := model.checkpoint.config.get(key)) is type(getattr(config, key, None)):
                setattr(config, key, value)
        with torch.device("meta"):
            whole: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    setattr(whole, whole.base_model_prefix, _Given(getattr(whole.base_model, "pooler", None)))
    whole.eval()
    load_parameters(model.checkpoint, whole, "", [name for name, _ in whole.named_parameters()], model.device)
    held = held_by(model.checkpoint)
    named = ((f"{name}.weight", m.weight.shape) for name, m in whole.named_modules() if isinstance(m, nn.Linear))
    linears = {name: Linear(name, locate(name, shape, held), *shape) for name, shape in named}
    return Resident("", whole, linears, partial(_judge, whole))


def _judge(whole: Any, vectors: Tensor) -> Tensor:
    whole.base_model.vectors = vectors
    scores: Tensor = whole(input_ids=torch.zeros(vectors.shape[:2], dtype=torch.long, device=vectors.device)).logits
    return scores

"""transformers as an engine opens models that it knows only as ones that see, and runs text through them."""

from __future__ import annotations

from pathlib import Path

import family_table
import numpy as np
import pytest
import torch
from walks import TINY, whole_model

from quantkit.quality.engines.transformers import Transformers

TOKENS = (3, 17, 40, 5)


@pytest.mark.parametrize("name", ["chameleon", "tiny"])
def test_predictions_are_those_of_the_class_in_config(name: str, tmp_path: Path) -> None:
    folder = TINY if name == "tiny" else family_table.build(name, tmp_path)
    engine = Transformers(folder, 1, {})
    with torch.no_grad():
        expected = whole_model(folder)(torch.tensor([TOKENS])).logits[0].numpy()
    found = np.concatenate(list(engine.logits(TOKENS, range(len(TOKENS)))))
    assert engine.vocabulary == expected.shape[1]
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)

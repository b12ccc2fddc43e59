"""Names of classes that transformers lacks: each that quantkit serves was decided about."""

from __future__ import annotations

import pytest
import transformers
from packaging.version import Version

from quantkit.consumers.names import NAMES
from quantkit.consumers.refusals_transformers import TYPES_OF_DRAFTS
from quantkit.families.known import known_families

SERVED = {name for family in known_families() if not family.unserved for name in family.hf}
LOOKED_UP = Version("5.23")


@pytest.mark.skipif(Version(transformers.__version__) < LOOKED_UP, reason="later versions were looked up")
def test_every_name_that_is_served_is_known() -> None:
    """transformers has the class, or the table says what opens it."""
    assert SERVED - set(dir(transformers)) - NAMES.keys() == set()


@pytest.mark.skipif(Version(transformers.__version__) < LOOKED_UP, reason="later versions were looked up")
def test_of_what_types_transformers_makes_drafts_is_known() -> None:
    types = {kind for family in known_families() if family.drafts for kind in family.defaults}
    assert types & set(transformers.CONFIG_MAPPING) <= TYPES_OF_DRAFTS <= set(transformers.CONFIG_MAPPING)


@pytest.mark.skipif(Version(transformers.__version__) < LOOKED_UP, reason="later versions were looked up")
@pytest.mark.parametrize("name", NAMES)
def test_what_loader_opens_a_name_is_said(name: str) -> None:
    """Its own name finds no class: the loader of its model type alone opens it."""
    from transformers.models.auto import modeling_auto as auto

    writing = {*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    seeing = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    for kind in NAMES[name].types:
        opened = "text" if kind in writing else "sights" if kind in seeing else "sounds"
        assert NAMES[name].opened == opened, kind


def test_no_name_is_there_for_nothing() -> None:
    assert NAMES.keys() <= SERVED


@pytest.mark.skipif(Version(transformers.__version__) < LOOKED_UP, reason="later versions were looked up")
@pytest.mark.parametrize("name", NAMES)
def test_model_types_and_classes_are_those_of_transformers(name: str) -> None:
    said = NAMES[name]
    assert name not in dir(transformers)
    assert all(kind in transformers.CONFIG_MAPPING for kind in said.types)
    assert not said.known or said.known in dir(transformers)

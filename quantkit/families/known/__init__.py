"""The model families quantkit knows: each module here is a lineage and defines FAMILIES, its rows.

A family is added by adding a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from quantkit.discovery import defined, mentioning, modules
from quantkit.errors import UnsupportedError, did_you_mean
from quantkit.families.folds import Fold
from quantkit.families.hparams import merged
from quantkit.families.rows import Family

CLASSES = "cls.output.weight"  # where llama.cpp has the head of a classifier or reranker
DECODER = "dec."  # where llama.cpp has the blocks that read an encoder


@cache
def known_families() -> tuple[Family, ...]:
    """All families: modules in alphabetical order, the rows of each in its order."""
    return tuple(family for name in modules(__name__) for family in defined(__name__, name, "FAMILIES"))


def families_with(word: object) -> tuple[Family, ...]:
    """Those among all families that may have `word` as a name, an architecture or a model type: their modules say it.
    No other module is imported, which would take as long as planning."""
    said = mentioning(__name__, str(word))
    return tuple(family for name in said for family in defined(__name__, name, "FAMILIES"))


def family_named(name: str) -> Family:
    """The family called `name`. Raises UnsupportedError with the nearest name."""
    found = next((family for family in families_with(name) if family.name == name), None)
    if found is None:
        known = [family.name for family in known_families()]
        message = f'unknown model family "{name}"{did_you_mean(name, known)}'
        raise UnsupportedError(message, hint=f"known are {', '.join(known)}", key=name)
    return found


def gives_no_text(name: object) -> bool:
    """Whether the family called `name` gives vectors or scores and no text."""
    return any(family.embeds for family in families_with(name) if family.name == name)


def judges(name: object) -> bool:
    """Whether the family called `name` ends in a head of classes, whose numbers are scores."""
    found = (family for family in families_with(name) if family.name == name)
    return any(row.target == CLASSES for family in found for row in family.outside)


def drafts(name: object) -> bool:
    """Whether the family, or the architecture of GGUF files, called `name` is a draft of another model."""
    return any(family.drafts for family in families_with(name) if name in (family.name, family.gguf))


def answers(name: object) -> bool:
    """Whether the family called `name` has a decoder that reads what an encoder gives."""
    found = (family for family in families_with(name) if family.name == name)
    return any(stack.target.startswith(DECODER) for family in found for stack in family.stacks)


def family_of_type(model_type: object) -> Family | None:
    """The family that has a model type of config.json; None where there is none."""
    return next((family for family in families_with(model_type) if str(model_type) in family.defaults), None)


def vocabulary_size(config: Mapping[str, Any]) -> Any:
    """The vocab_size of a parsed config.json, that of a nested text_config first, unchecked.

    Where it says none, what transformers takes for the model type; None where that is not known.
    """
    return said_or_default(config, "vocab_size")


def said_or_default(config: Mapping[str, Any], key: str) -> Any:
    """A value of a parsed config.json, that of a nested text_config first, unchecked.

    A spelling of the family counts as the value. Where it says none, what transformers takes for the model type; None
    where that is not known.
    """
    said = merged(config)
    family = family_of_type(said.get("model_type"))
    if key in said or family is None:
        return said.get(key)
    spelled = next((said[other] for other, name in family.aliases.items() if name == key and other in said), None)
    return family.defaults[str(said["model_type"])].get(key) if spelled is None else spelled


def folds_of(name: str, config: Mapping[str, Any]) -> tuple[Fold, ...]:
    """Where scales can be moved in a checkpoint of the family called `name`, in the order in which a block computes.

    `config` is its parsed config.json, whose settings some folds depend on. Raises UnsupportedError for a family that
    is unknown.
    """
    return tuple(fold for fold in family_named(name).folds if _is_there(fold, config))


def _is_there(fold: Fold, config: Mapping[str, Any]) -> bool:
    wanted, unwanted = (key is not None and _is_set(config, key) for key in (fold.when, fold.unless))
    return not unwanted and (wanted or fold.when is None)


def _is_set(config: Mapping[str, Any], key: str) -> bool:
    """Whether a setting is on, or says something."""
    value = said_or_default(config, key)
    return value is not None and value is not False

"""The encoders quantkit knows: each module here is a kind of projector and defines TOWERS, its rows.

A tower is added by adding a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from quantkit.discovery import defined, mentioning, modules
from quantkit.families.describe import Named, find_family, inner_family
from quantkit.families.rows import Family
from quantkit.families.tower import Tower
from quantkit.families.uncarried import UNCARRIED, Why
from quantkit.families.wrapped import WRAPPED

PARTS = ("vision_config", "audio_config", "speech_config", "vision_encoder")  # of config.json, of a model with a tower


@cache
def known_towers() -> tuple[Tower, ...]:
    """All towers: modules in alphabetical order, the rows of each in its order."""
    return tuple(tower for name in modules(__name__) for tower in defined(__name__, name, "TOWERS"))


def _towers_of(architecture: str | None) -> list[Tower]:
    """The towers of an architecture, whose modules name it; no other module is imported."""
    if architecture is None:
        return []
    said = mentioning(__name__, architecture)
    return [tower for name in said for tower in defined(__name__, name, "TOWERS") if architecture in tower.hf]


def find_tower(config: Mapping[str, Any]) -> Tower | None:
    """The tower of a parsed config.json, by the architecture of its encoder, else that of the whole; None without."""
    said = [_architecture(config.get("vision_config")), _architecture(config)]
    for name in said:
        found = [tower for tower in _towers_of(name) if tower.serves(config)]
        if found:
            return found[0]
    return None


def text_family(config: Mapping[str, Any]) -> tuple[Named, Tower | None]:
    """The family of the language model of a parsed config.json, and the encoder before it, if there is one.

    With an encoder its names may be spelled in further ways, which the family then knows, too. Raises what
    `find_family` raises.
    """
    tower = find_tower(config)
    if tower is None:
        return find_family(config), None
    named = inner_family(config)
    family = replace(named.family, spellings=(*tower.text, *named.family.spellings))
    return named._replace(family=family), tower


def unknown_part(config: Mapping[str, Any]) -> str | None:
    """What of config.json says that there is an encoder that no tower serves: a part, or the architecture."""
    if find_tower(config) is not None:
        return None
    architecture = _architecture(config)
    said = next((part for part in PARTS if isinstance(config.get(part), Mapping) and config[part]), None)
    return said or (architecture if architecture in WRAPPED else None)


def uncarried(config: Mapping[str, Any]) -> Why | None:
    """Why the encoder that config.json says is not written, where that is known."""
    return UNCARRIED.get(_architecture(config) or "") if find_tower(config) is None else None


def has_tower(family: Family) -> bool:
    """Whether some architecture of a family has an encoder that is written as a file of its own."""
    return not family.embeds and any(set(tower.hf) & {*family.hf, *family.inside} for tower in known_towers())


def _architecture(config: object) -> str | None:
    named = config.get("architectures") if isinstance(config, Mapping) else None
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None

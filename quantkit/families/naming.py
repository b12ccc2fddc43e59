"""What a model's name says: organization, base name, size, version, finetune.

Follows the reference's heuristics (gguf-py/gguf/metadata.py, `get_model_id_components`, and utility.py,
`size_label`), because consumers show and group models by these keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from quantkit.families.model import ModelTensor
from quantkit.records import record

VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
ENCODING = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
SIZE = re.compile(r"((a|\d+x)?\d+([._]\d+)?[kmbt]\d?|small|mini|medium|large|x?xl)", re.IGNORECASE)
FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
UNTITLED = re.compile(r"v\d+(\.\d+)*|\d.*")
MAX_LENGTH = 512  # organizations and names of the Hub have at most 96 characters each
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@record
class NameParts:
    """The parts of a model's name; None for what it does not say."""

    name: str | None = None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


def title(text: str) -> str:
    """Words with dashes as spaces, lower-case words capitalized, versions and numbers left alone."""
    words = text.strip().replace("-", " ").split()
    return " ".join(word.title() if word.islower() and not UNTITLED.fullmatch(word) else word for word in words)


def parse_name(model_id: str, parameters: int) -> NameParts:
    """Take a name such as "org/Base-8x7B-Instruct-v0.1" apart. `parameters` tells sizes from context lengths; of an
    adapter it is negative, what the adapted layers have.

    A sentence (anything with a space) is only a name. Base name, and all else, is None where the parts would be
    guesses: a name that has neither size, finetune nor version.
    """
    if " " in model_id or len(model_id) > MAX_LENGTH:
        return NameParts(name=model_id)
    organization, slash, name = model_id.partition("/")
    if not slash:
        organization, name = "", model_id
    words = [word for word in name.split("-") if word]
    kinds = []
    for position, word in enumerate(words):
        words[position], kind = _classify(word, position, parameters)
        kinds.append(kind)
    kinds = _without_word_sizes(words, kinds)
    kinds = _with_base(words, kinds)
    parts = {kind: [w for w, k in zip(words, kinds, strict=True) if k == kind] for kind in set(kinds)}
    size = "-".join(dict.fromkeys(parts.get("size", ()))) or None
    finetune = "-".join(parts.get("finetune", ())) or None
    version = "-".join(parts.get("version", ())) or None
    basename = "-".join(parts.get("base", ())) or None
    if size is None and finetune is None and version is None:
        basename = None
    known_organization = organization if slash and not organization.startswith(".") else None
    return NameParts(name, known_organization, basename, finetune, version, size)


def _classify(word: str, position: int, parameters: int) -> tuple[str, str]:
    """A word of a name as it is to be written, and its kind ("" where only the neighbours can tell)."""
    if VERSION.fullmatch(word):
        return word, "version"
    if ENCODING.fullmatch(word):
        return word.upper(), "encoding"
    if position and SIZE.fullmatch(word):
        return _size(word, parameters)
    if position and FINETUNE.fullmatch(word):
        return word, "finetune" if parameters >= 0 or word.lower() != "lora" else "adapter"
    return word, ""


def _size(word: str, parameters: int) -> tuple[str, str]:
    """ "7b1" -> "7.1B". A number far from the model's own size is a context length, which belongs to the finetune."""
    word = word.replace("_", ".")
    if word[-1].isdecimal():
        word = f"{word[:-2]}.{word[-1]}{word[-2]}"
    if word[-2:-1].isdecimal() and word[-1] in "kmbt":
        word = word[:-1] + word[-1].upper()
    try:
        claimed = float(word[:-1]) * UNITS.get(word[-1], 1e-3)
    except ValueError:  # "8x7B", "A3B", "small"
        return word, "size"
    far = abs(claimed - parameters) > 7 * parameters // 8 if parameters >= 0 else claimed < -parameters // 8
    if parameters and far:
        return word[:-1] + word[-1].lower(), "finetune"
    return word, "size"


def _without_word_sizes(words: list[str], kinds: list[str]) -> list[str]:
    """ "mini" is no size next to "4B"."""
    sizes = [word for word, kind in zip(words, kinds, strict=True) if kind == "size"]
    if not any(character.isdecimal() for word in sizes for character in word):
        return kinds
    return ["" if kind == "size" and word.isalpha() else kind for word, kind in zip(words, kinds, strict=True)]


def _with_base(words: list[str], kinds: list[str]) -> list[str]:
    """The base name is the unclassified start, with versions inside it; a version at its end is the version."""
    end = 0
    while end < len(words) and (kinds[end] == "version" or (not kinds[end] and words[end][0].isalpha())):
        end += 1
    inside = end
    while inside == len(words) and end and kinds[end - 1] == "version":
        end -= 1
    return ["base"] * end + [kind or "finetune" for kind in kinds[end:]]


def size_label(tensors: Iterable[ModelTensor]) -> tuple[int, str]:
    """Number of weights in the target, and its label: "8.0B", or "8x7B" where experts share the rest."""
    shared = expert = counts = stacks = 0
    total = 0
    for tensor in tensors:
        size = prod(tensor.shape)
        total += size
        if "_exps." in tensor.name and len(tensor.shape) > 2:
            expert += size // tensor.shape[0]
            counts += tensor.shape[0]
            stacks += 1
        else:
            shared += size
    if not stacks:
        return total, _rounded(total)
    return total, f"{counts // stacks}x{_rounded(shared + expert)}"


def _rounded(count: int) -> str:
    """Two significant digits at least: 1.1B, 46.7B -> "47B"."""
    units = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"))
    scale, unit = next(((scale, unit) for limit, scale, unit in units if count > limit), (1e-3, "K"))
    digits = len(str(round(count * scale)).lstrip("0"))
    return f"{count * scale:.{max(2 - digits, 0)}f}{unit}"

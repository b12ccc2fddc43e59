"""Texts for two models to be compared on: prose, code, a conversation, and another language with numbers."""

from __future__ import annotations

from collections.abc import Callable

# Context lengths in tokens at which predictions are compared: the start of a text, and far enough into it that
# rotations, windows and scales of positions count. Each passage is run once, whatever the number of lengths.
LENGTHS = (2, 6, 16, 32, 64, 96, 128)

PASSAGES = (
    "The harbour was quiet in the early morning, and the boats lay so still that their masts were doubled in the "
    "water. An old man walked along the quay with a basket of bread under his arm. He had done this every day for "
    "thirty years, he said, and he had never once seen the lighthouse keeper come down before seven. Behind the town "
    "the hills rose in three steps: first the gardens, then the vineyards, and then the bare rock, on which nothing "
    "grew but thyme. When the wind came from the south one could smell it down at the sea. The capital of the "
    "province lies two hours to the north, and few people here have ever been there.",
    'import json\nfrom pathlib import Path\n\n\ndef read_config(path: Path) -> dict[str, int]:\n    """The numbers of '
    'a configuration file."""\n    if not path.exists():\n        raise FileNotFoundError(path)\n    found = '
    "json.loads(path.read_text())\n    return {key: int(value) for key, value in found.items() if value is not None}"
    "\n\n\nclass Counter:\n    def __init__(self, start: int = 0) -> None:\n        self.value = start\n\n    def "
    "add(self, amount: int = 1) -> int:\n        self.value += amount\n        return self.value\n\n\nif __name__ == "
    '"__main__":\n    counter = Counter(10)\n    for name, number in read_config(Path("config.json")).items():\n'
    "        print(name, counter.add(number))\n",
    "Question: Why does bread rise when it is baked?\nAnswer: Yeast eats the sugar in the dough and gives off carbon "
    "dioxide. The gas is caught in a net of gluten, so the dough grows. In the heat of the oven the gas expands once "
    "more, until the crust is firm.\nQuestion: And what happens without salt?\nAnswer: The dough rises faster, but "
    "the bread tastes flat, and its crumb is coarse and uneven.\nQuestion: How much salt should I take for one "
    "kilogram of flour?\nAnswer: About twenty grams. Dissolve it in the water before you add the flour.\nQuestion: "
    "Can I use sea salt?\nAnswer: Yes. Weigh it, because its grains are larger.",
    "Im Jahr 1848 zogen 312 Familien aus dem Tal fort; 1861 waren es noch 47. Der Weg nach Hamburg dauerte neun Tage, "
    "die Fahrt über das Meer sechs Wochen. Am 3. Mai schrieb Anna: «Wir haben 25 Gulden bezahlt und schlafen zu "
    "viert in einem Bett.» La carta llegó en agosto, cuando nadie la esperaba ya. Les prix avaient doublé : 1,50 F "
    "le pain, 12 F la viande. 2 + 2 = 4, 3 × 7 = 21, √2 ≈ 1.41421. Temperatures: -12.5 °C, 0 °C, 37.2 °C. The total "
    "of 1,204,077 was entered in the book on page 96, line 8, and signed twice.",
)


def contexts(encode: Callable[[str], list[int]], context: int | None = None) -> list[list[int]]:
    """Beginnings of the passages as token ids, each passage's in a row and from short to long. With `context`, the
    number of tokens that a model takes, those that leave room for the token that follows.
    """
    found = []
    for passage in PASSAGES:
        ids = list(encode(passage))
        if context is not None:
            ids = ids[: max(context - 1, 1)]
        found += [ids[:length] for length in LENGTHS if length <= len(ids)] or [ids]
    return [ids for ids in found if ids]

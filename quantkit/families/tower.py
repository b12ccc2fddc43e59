"""What an encoder of images or sound is that stands before a language model: one row, written as a file of its own.

llama.cpp reads it from a second GGUF file of architecture "clip" (`--mmproj`). A tower says which source tensors are
its own, what they become there, and which keys say how images or sound become numbers. Which text model it stands
before is not its business: it goes with an architecture of config.json. The rows stand in `families.towers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.assumptions import Assumption
from quantkit.families.general import ReadFile
from quantkit.families.hparams import CONFIG_HINT, Hparams, part_of
from quantkit.families.layers import TRUNK, Derive, Seen, trunk_of
from quantkit.families.model import ModelTensor
from quantkit.families.rows import Condition, Drop, Stack, T
from quantkit.families.spellings import Rename
from quantkit.records import record
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

TARGET = "clip"
HALF = "half"  # stored as f16 where the file is one of f16, as f32 in all others
VISION_BLOCK, AUDIO_BLOCK = "v.blk.{}.", "a.blk.{}."
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
WHOLE, SAID = "config.json", "processor"  # names in the numbers: all of config.json, what the processor files say
MODEL = "model."
Also = Callable[[Hparams, Mapping[str, TensorInfo], ReadFile], tuple[ModelTensor, ...]]


@record
class Tower:
    """One encoder with its projector: all that quantkit knows of it.

    `name` is what llama.cpp calls the projector, `hf` the architectures of config.json that have it, of which it serves
    those that meet `when`. `owns` are the beginnings of its source names, without "model.": what begins so is no tensor
    of the text model. `outside` and `block` are its rows, as those of a family; `source_block` and `target_block` the
    names of its layers, `stacks` further blocks. `spellings` bring other spellings of names into that of the rows,
    `text` those of the text model's names into that of its family.

    `part` is where config.json has its numbers (a path with dots; None where they have no place of their own), and
    `defaults` what transformers fills in there, `aliases` other spellings of numbers; `derive` makes numbers from
    numbers. `runs` is the number of the layers that are run; those after them are left out. `numbered` gives blocks
    that are named by their place in a list of config.json the number of their layer: beginnings of their names, each
    with the list. `seen` gives numbers from the tensors that are there (numbers, tensors by the names of rows ->
    numbers), `also` makes tensors from any of the checkpoint. `sees` says that it reads images: a processor file has to
    say which values it expects, or `expects` does, where those of the published models stand in their code. `assumes`
    is what llama.cpp's graph takes for granted.
    """

    name: str
    hf: tuple[str, ...]
    owns: tuple[str, ...]
    outside: tuple[T, ...]
    block: tuple[T, ...]
    source_block: str
    keys: tuple[keys.KeyRow, ...]
    defaults: Mapping[str, Any]
    target_block: str = VISION_BLOCK
    part: str | None = "vision_config"
    aliases: Mapping[str, str] = field(default_factory=dict)
    derive: tuple[Derive, ...] = ()
    drop: tuple[Drop, ...] = ()
    spellings: tuple[Rename, ...] = ()
    text: tuple[Rename, ...] = ()
    stacks: tuple[Stack, ...] = ()
    runs: str = TRUNK
    numbered: tuple[tuple[str, str], ...] = ()
    seen: Seen | None = None
    also: Also | None = None
    when: Condition | None = None
    sees: bool = True
    assumes: tuple[Assumption, ...] = ()
    expects: Mapping[str, Any] = field(default_factory=dict)

    def serves(self, config: Mapping[str, Any]) -> bool:
        """Whether config.json (parsed) is of a model with this tower."""
        return self.when is None or self.when.holds(config)

    def is_own(self, name: str) -> bool:
        """Whether a source tensor is the tower's, and not the text model's."""
        return name.removeprefix(MODEL).startswith(self.owns)

    def spelled(self, name: str, layers: int = 0) -> str:
        """A source name of the tower's without "model.", in the spelling of the rows."""
        inner = name.removeprefix(MODEL)
        for spelling in self.spellings:
            inner = spelling.apply(inner, layers)
        return inner

    def numbers(self, config: Mapping[str, Any], hidden: int, processor: Mapping[str, Any]) -> Hparams:
        """The numbers of the tower, filled in.

        `hidden` is the width of the text model, `processor` what `read_processor` found. Raises InputError for what is
        missing or no number.
        """
        part = part_of(config, self.part) if self.part else {}
        if part is None:
            what = f"config.json: {self.part} is missing or no object"
            raise InputError(what, key=self.part, path="config.json", hint=CONFIG_HINT)
        renamed = {name: part[key] for key, name in self.aliases.items() if key in part}
        values = {**self.defaults, **part, **renamed, "projection_dim": hidden, WHOLE: config, SAID: processor}
        for derive in self.derive:
            values = {**values, **derive(Hparams(values))}
        found = Hparams(values)
        if values.get("head_dim") is None and values.get("num_attention_heads") and values.get("hidden_size"):
            found = Hparams({**values, "head_dim": found.count("hidden_size") // found.count("num_attention_heads")})
        return found


@record
class Standing:
    """The rows of a tower in one checkpoint. See `mapping.Rowed`."""

    tower: Tower
    hparams: Hparams
    extra: None = None
    skips_further: str = "it is of a layer whose output is not used"

    @property
    def label(self) -> str:
        return f'projector "{self.tower.name}"'

    @property
    def outside(self) -> tuple[T, ...]:
        return self.tower.outside

    @property
    def drop(self) -> tuple[Drop, ...]:
        return self.tower.drop

    def all_stacks(self) -> tuple[Stack, ...]:
        first = Stack(self.tower.source_block, self.tower.target_block, self._layers, self.tower.block)
        return (first, *self.tower.stacks)

    def _layers(self, hparams: Hparams) -> int:
        return hparams.count(self.tower.runs)

    def source_name(self, name: str, layers: int = 0) -> str:
        """The name that rows use: without "model.", in their spelling."""
        return self._renumbered(self.tower.spelled(name, layers))

    def _renumbered(self, name: str) -> str:
        start, key = next(((start, key) for start, key in self.tower.numbered if name.startswith(start)), ("", ""))
        if not start:
            return name
        place, _, rest = name[len(start) :].partition(".")
        listed = layers_listed(self.hparams, key)
        if not place.isdecimal() or int(place[:7]) >= len(listed):
            what = f'tensor "{shown(name)}": {key} of config.json names {len(listed)} layers'
            raise InputError(what, tensor=name, key=key, hint="config.json and the weights are not of the same model")
        return f"{start}{listed[int(place)]}.{rest}"

    def is_skipped(self, name: str, hparams: Hparams) -> bool:
        """Whether a tensor, by the name that rows use, is of a layer that is not run."""
        start = self.tower.source_block.partition("{}")[0]
        number = name[len(start) :].partition(".")[0] if name.startswith(start) else ""
        return number.isdecimal() and self._layers(hparams) <= int(number[:7]) < trunk_of(hparams)


def layers_listed(hparams: Hparams, key: str) -> list[int]:
    """Numbers of layers in a list of config.json. Raises InputError for what is no such list."""
    said, count = hparams.values.get(key) or [], hparams.count("num_hidden_layers")
    if not isinstance(said, list) or not all(isinstance(one, int) and 0 <= one < count for one in said):
        what = f"config.json: {key} is {shown(repr(said)[:80])}, expected numbers of its {count} layers"
        raise InputError(what, key=key, path="config.json", hint=CONFIG_HINT)
    return [int(one) for one in said]


def constant(name: str, kind: Any, value: object) -> keys.KeyRow:
    """A key that is the same in every file."""
    return keys.computed(name, kind, lambda hparams: value)

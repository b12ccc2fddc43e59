"""What is judged: an artifact as its consumer will see it."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING

from quantkit.families.names import EXPERTS
from quantkit.families.roles import Role, fused_group
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.formats.containers.base import WriteLayout
    from quantkit.qtypes.schemes.base import Traits


@record
class Module:
    """A linear layer of weight (rows, cols) by the name that loaders know; `layout` is None where it stays a float."""

    name: str
    role: Role
    rows: int
    cols: int
    layout: WriteLayout | None

    @property
    def traits(self) -> Traits:
        """What engines ask of how it is stored; of a float nothing is special."""
        return _plain() if self.layout is None else self.layout.traits

    def stored_as(self, formats: frozenset[str]) -> bool:
        """Whether it is rounded and configurations call the way it is stored one of these."""
        return self.traits.format in formats


@record
class Subject:
    """An artifact. `container` is "gguf" or the name of a container of formats/containers.

    `modules` are all linear layers of the blocks, also those that stay as they are; a GGUF file has none but
    `file_types`, the names of its tensors' types. `architecture` is general.architecture of GGUF, of a checkpoint the
    class that config.json names, beside its `model_type`; `drafts` says that its family is one of drafts. Counts of
    heads are 0 where unknown; `files` counts those that hold weights.
    """

    container: str
    modules: tuple[Module, ...] = ()
    architecture: str = ""
    model_type: str = ""
    drafts: bool = False
    head_quantized: bool = False
    kv_cache: bool = False
    heads: int = 0
    kv_heads: int = 0
    file_types: tuple[str, ...] = ()
    files: int = 1

    @cached_property
    def layouts(self) -> frozenset[WriteLayout]:
        """The different settings of its rounded layers."""
        return frozenset(m.layout for m in self.modules if m.layout is not None)

    @cached_property
    def formats(self) -> frozenset[str]:
        """What configurations call the ways in which its layers are stored."""
        return frozenset(m.traits.format for m in self.modules)

    @cached_property
    def fused(self) -> tuple[tuple[Module, ...], ...]:
        """Groups of at least two layers that engines fuse, floats included: all experts of a block are one."""
        groups: dict[tuple[str, int], list[Module]] = {}
        for module in self.modules:
            if EXPERTS in module.name:
                groups.setdefault((module.name.partition(EXPERTS)[0], -1), []).append(module)
            elif (group := fused_group(module.role, module.name)) is not None:
                groups.setdefault((module.name.rpartition(".")[0], group), []).append(module)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)


@cache
def _plain() -> Traits:
    from quantkit.qtypes.schemes.base import Traits  # for checkpoints alone: a GGUF file has no modules

    return Traits(type="float", bits=32, word="float", words="float")

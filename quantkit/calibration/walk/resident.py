"""A block in memory: its weights, what its linears read, and the block's output."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import Linear, Site
from quantkit.calibration.walk.carried import STORES
from quantkit.calibration.walk.experts import separate
from quantkit.calibration.walk.halves import part
from quantkit.calibration.walk.lookups import look_up
from quantkit.calibration.walk.skeleton import Skeleton, cache_class, fill_buffers, set_parameter
from quantkit.calibration.walk.turned import locate_in, turn
from quantkit.calibration.walk.weights import Held, held_by, joined, locate, named, read_rows, read_whole
from quantkit.errors import InputError
from quantkit.families.describe import find_family
from quantkit.families.model import Rows
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import COUNTED_DTYPES


class _Captured(Exception):
    """Everything that was wanted has been seen; the rest of the block need not run."""


@record
class Wanted:
    """What a run should note: the inputs of these linears. With `only`, it stops when it has them."""

    linears: frozenset[str]
    only: bool


@record
class Traced:
    """What a run with gradients went through: inputs (tokens, cols) and outputs of linears, by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@record
class Peaks:
    """The largest magnitudes of keys (after norm and rotary embedding) and of values, each a scalar tensor."""

    keys: Tensor
    values: Tensor


# A block runs it twice, with unlike inputs: it has no site of its own, and is never rounded with statistics.
TWICE = "altup.modality_router"
NOTHING = Wanted(frozenset(), only=False)

Outputs = dict[str, Any]  # what linears gave for one chunk of samples, by name: tensors, or what routers give


@record
class Resident:
    """A block, or the head, whose weights are in memory.

    `prefix` is its name ("model.layers.3."), put before the names of parameters inside `module`. `forward` takes
    float32 (batch, seqlen, hidden) and returns the block's output. `local` holds, per thread, the inputs of linears
    and the outputs that earlier runs have left while it runs, and as `cache` what stands for the key/value cache where
    one is wanted. `last` says which of seqlen tokens is the last that the block makes anew.
    """

    prefix: str
    module: nn.Module
    linears: Mapping[str, Linear]
    forward: Callable[[Tensor], Tensor]
    local: threading.local = field(default_factory=threading.local)
    last: Callable[[int], int] = lambda seqlen: seqlen - 1

    @property
    def name(self) -> str:
        return self.prefix.rstrip(".") or "head"

    def run(
        self, hidden: Tensor, wanted: Wanted = NOTHING, outputs: Outputs | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The output, None if the run stopped early, and the inputs of the wanted linears, each (tokens, cols).

        Linears that `outputs` names give what it holds; a run that stops early adds what the others gave.
        """
        self.local.wanted, self.local.inputs, self.local.outputs = wanted, {}, outputs
        try:
            return self.forward(hidden), self.local.inputs
        except _Captured:
            return None, self.local.inputs
        finally:
            self.local.wanted, self.local.inputs, self.local.outputs = NOTHING, {}, None

    def trace(self, hidden: Tensor, outputs: frozenset[str], wanted: Wanted = NOTHING) -> tuple[Tensor | None, Traced]:
        """A run that also notes what these linears of an observed block give. Outputs of earlier runs are not used."""
        self.local.traced = traced = dict.fromkeys(outputs)
        try:
            output, inputs = self.run(hidden, wanted)
        finally:
            self.local.traced = None
        return output, Traced(inputs, {name: given for name, given in traced.items() if given is not None})

    def cached(self, hidden: Tensor) -> Peaks | None:
        """The largest magnitudes of what the block's attention puts into its cache, None for one without attention.

        The run stops there.
        """
        found: list[Peaks] = []

        def update(keys: Tensor, values: Tensor, *place: Any, **settings: Any) -> None:
            found.append(Peaks(keys.abs().amax(), values.abs().amax()))
            raise _Captured

        self.local.cache = cache_class(self.module)()
        self.local.cache.update = update
        try:
            self.run(hidden)
        finally:
            self.local.cache = None
        return found[0] if found else None

    def parameter(self, name: str) -> Tensor:
        """A parameter by its full name. Raises InputError for a name that is not of this block."""
        try:
            return self.module.get_parameter(name.removeprefix(self.prefix))
        except AttributeError as error:
            message = f'block {self.name} has no parameter "{name}"'
            raise InputError(message, tensor=name, hint="weights are replaced in the block they belong to") from error

    def source(self, name: str, held: Held) -> Rows:
        """Where a parameter lies in the source, by its full name; of one in pieces, where the first of them does."""
        pieces = joined(name, self.parameter(name).shape, held)
        return pieces[0] if pieces else locate_in(self.module, self.prefix, name.removeprefix(self.prefix), held)

    def is_whole(self, name: str, held: Held) -> bool:
        """Whether a parameter is all of its tensor of the source, and not rows of one that others share."""
        return self.parameter(name).numel() == held.tensors[self.source(name, held).tensor].elements

    def sites(self, hidden: Tensor) -> tuple[Site, ...]:
        """Linears grouped by the tensor they read, in the order in which the block reads them.

        A block runs to its end, which shows how its modules end; a head does not: its output is large.
        """
        _, inputs = self.run(hidden, Wanted(frozenset(self.linears), only=not self.prefix))
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, given in inputs.items():
            # an empty tensor has no address to tell it by: experts without tokens
            key = (given.data_ptr(), given.numel(), given.shape[-1]) if given.numel() else (id(given),)
            groups.setdefault(key, []).append(name)
        return tuple(Site(names[0], tuple(names), self.linears[names[0]].cols) for names in groups.values())


def observe(resident: Resident) -> Resident:
    """Have the linears of a resident block note their inputs."""
    for name in resident.linears:
        module = resident.module.get_submodule(name.removeprefix(resident.prefix).removesuffix(".weight"))
        module.register_forward_pre_hook(partial(_note, resident.local, name))
    return resident


@record
class Ending:
    """How a module ends: in its linear called `leaf`, whose output is its own, alone or as the first of a tuple of
    `length` whose others are None."""

    leaf: str
    length: int = 0


Endings = dict[str, Ending]  # by class and path of the module; what one block has shown holds for those like it


def remember(resident: Resident, endings: Endings) -> Resident:
    """Have the linears of a resident block give what they gave before, where a run knows it.

    A module that ends in one of its linears, as attention does, goes on from there where that one's input is known: not
    one whose keys and values later blocks read.
    `endings` is filled with what runs show.
    """
    inside: dict[str, set[str]] = {}
    for name in resident.linears:
        path, _, leaf = name.removeprefix(resident.prefix).removesuffix(".weight").rpartition(".")
        module = resident.module.get_submodule(f"{path}.{leaf}".lstrip("."))
        # not the module itself: a cycle would keep the block in memory after it is dropped
        module.forward = partial(_recall, resident.local, name, ref(module))
        parent = resident.module.get_submodule(path)
        if path and ".experts" not in path and not getattr(parent, STORES, False):
            inside.setdefault(path, set()).add(leaf)
    for path, leaves in inside.items():
        parent = resident.module.get_submodule(path)
        part = _Part(f"{resident.prefix}{path}", f"{type(parent).__name__} {path}", frozenset(leaves), endings)
        parent.forward = partial(_resume, resident.local, part, ref(parent))
        for leaf in leaves:
            keep = partial(_keep, resident.local, part, leaf)
            parent.get_submodule(leaf).register_forward_pre_hook(keep, prepend=True)
    return resident


@record
class _Part:
    """A module with these linears: its full name, and the key of its ending."""

    name: str
    key: str
    leaves: frozenset[str]
    endings: Endings

    def linear(self, leaf: str) -> str:
        return f"{self.name}.{leaf}.weight"


def kept_width(resident: Resident, linear: Linear, endings: Endings) -> int:
    """How many numbers runs keep of a linear for one token: what it gives, and of a module that is known to end in one
    of its linears only what that one reads, or then gives."""
    path, _, leaf = linear.name.removeprefix(resident.prefix).removesuffix(".weight").rpartition(".")
    ending = endings.get(f"{type(resident.module.get_submodule(path)).__name__} {path}")
    if ending is None:
        return linear.rows
    return max(linear.rows, linear.cols) if leaf == ending.leaf else 0


def input_of(linear: str) -> str:
    """The name under which the input of a linear is kept."""
    return f"{linear}/input"


def _recall(local: threading.local, name: str, own: ReferenceType[nn.Module], *args: Any, **kwargs: Any) -> Any:
    outputs: Outputs | None = local.outputs
    if outputs is not None and name in outputs:
        output = outputs[name]
    else:
        module = own()
        assert module is not None, "it is being called"
        output = type(module).forward(module, *args, **kwargs)
        if outputs is not None and local.wanted.only:
            outputs[name] = output
            outputs.pop(input_of(name), None)  # what comes later reads the output
    local.given = name, output
    traced: dict[str, Any] | None = getattr(local, "traced", None)
    if traced is not None and name in traced and isinstance(output, Tensor):  # routers give several
        traced[name] = output
    return output


def _resume(local: threading.local, part: _Part, own: ReferenceType[nn.Module], *args: Any, **kwargs: Any) -> Any:
    """Run a module; from its last linear on, where that one's input or output is known and nothing before is wanted."""
    module = own()
    assert module is not None, "it is being called"
    ending, outputs = part.endings.get(part.key), local.outputs or {}
    if ending is not None and not local.wanted.linears & {part.linear(leaf) for leaf in part.leaves - {ending.leaf}}:
        last = part.linear(ending.leaf)
        result = outputs.get(last) if last not in local.wanted.linears else None
        if result is None and input_of(last) in outputs:
            result = module.get_submodule(ending.leaf)(outputs[input_of(last)])
        if result is not None:
            return (result, *[None] * (ending.length - 1)) if ending.length else result
    local.given = None
    result = type(module).forward(module, *args, **kwargs)
    _learn(part, local.given, result)
    return result


def _learn(part: _Part, given: tuple[str, Any] | None, result: Any) -> None:
    """See whether a module gave just what its last linear gave."""
    if given is None or part.key in part.endings:
        return
    leaf = given[0].removesuffix(".weight").rpartition(".")[2]
    if result is given[1] and given[0] == part.linear(leaf):
        part.endings[part.key] = Ending(leaf)
    elif isinstance(result, tuple) and result[0] is given[1] and all(each is None for each in result[1:]):
        part.endings[part.key] = Ending(leaf, len(result))


def _keep(local: threading.local, part: _Part, leaf: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Keep the input of a module's last linear: what the others gave is not needed any more."""
    ending = part.endings.get(part.key)
    if local.outputs is None or not local.wanted.only or ending is None or ending.leaf != leaf:
        return
    local.outputs[input_of(part.linear(leaf))] = args[0]
    for other in part.leaves - {leaf}:
        local.outputs.pop(part.linear(other), None)


def _note(local: threading.local, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    wanted: Wanted = local.wanted
    if name not in wanted.linears:
        return
    given: Tensor = args[0]
    local.inputs[name] = given if given.ndim == 2 else given.reshape(-1, given.shape[-1])
    if wanted.only and len(local.inputs) == len(wanted.linears):
        raise _Captured


def find_linears(checkpoint: Checkpoint, module: nn.Module, prefix: str) -> dict[str, Linear]:
    """The modules without children that have a matrix called `weight`: projections, experts, routers."""
    found, held = {}, held_by(checkpoint)
    for path, child in module.named_modules():
        weight = getattr(child, "weight", None)
        if path.endswith(TWICE):
            continue
        if any(True for _ in child.children()) or not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            continue
        name = f"{prefix}{path}.weight"
        source = locate_in(module, prefix, f"{path}.weight", held)
        found[name] = Linear(name, source, *weight.shape)
    return found


def load_block(checkpoint: Checkpoint, skeleton: Skeleton, index: int, device: torch.device) -> tuple[nn.Module, str]:
    """A copy of a block on the meta device with its weights read, and its prefix."""
    prefix = skeleton.name_of(skeleton.layers[index]) + "."
    module = copy.deepcopy(skeleton.blocks[index])
    size = sum(p.numel() for p in module.parameters())
    total = sum(info.elements for info in checkpoint.tensors().values())
    if size > total:  # before anything of that size is made
        message = f"config.json: block {index} takes {size:,} weights, the whole checkpoint has {total:,}"
        raise InputError(message, path="config.json", hint="config.json and the weights are not of the same model")
    separate(module, prefix.rstrip("."))
    part(module, prefix, held_by(checkpoint))
    turn(module)
    look_up(module, prefix, checkpoint, device)
    load_buffers(checkpoint, module, prefix, device)
    fill_buffers(skeleton, module, device)  # before there are weights: some classes fill those along with buffers
    load_parameters(checkpoint, module, prefix, [name for name, _ in module.named_parameters()], device)
    return module, prefix


def load_parameters(
    checkpoint: Checkpoint, module: nn.Module, prefix: str, names: Iterable[str], device: torch.device
) -> None:
    """Read parameters of `module`, which are called prefix + name in the whole model."""
    held = held_by(checkpoint)
    for name in names:
        shape = module.get_parameter(name).shape
        pieces = joined(prefix + name, shape, held)
        if pieces:
            read = [read_rows(checkpoint, one, torch.Size((one.rows, *shape[1:])), device) for one in pieces]
            set_parameter(module, name, torch.cat(read))
            continue
        rows = locate_in(module, prefix, name, held)
        set_parameter(module, name, read_rows(checkpoint, rows, shape, device))


def load_buffers(checkpoint: Checkpoint, module: nn.Module, prefix: str, device: torch.device) -> None:
    """Read those buffers of `module` that the checkpoint holds; others that are computed are left as they are.

    Raises InputError for one that is part of the model and not there, unless its family computes it.
    """
    held, saved = held_by(checkpoint), module.state_dict().keys()
    computed = [drop.pattern for drop in find_family(checkpoint.config).family.drop]
    for name, buffer in list(module.named_buffers()):
        info = named(prefix + name, held)
        if info is None or info.elements != buffer.numel():
            if name in saved and not any(fnmatchcase(prefix + name, pattern) for pattern in computed):
                locate(prefix + name, buffer.shape, held)
            continue
        parent, _, attribute = name.rpartition(".")
        if info.dtype in COUNTED_DTYPES:
            values = read_whole(checkpoint, info, buffer, device)
        else:
            values = read_rows(checkpoint, Rows(info.name, 0, info.rows), buffer.shape, device)
        setattr(module.get_submodule(parent), attribute, values)


def first_non_finite(resident: Resident, hidden: Tensor) -> str | None:
    """The path of the module whose output is the first that is not finite; "" for the block's input, None for none."""
    if not bool(hidden.isfinite().all()):
        return ""
    found: list[str] = []

    def check(path: str, module: nn.Module, args: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not found and isinstance(first, Tensor) and not bool(first.isfinite().all()):
            found.append(path)

    hooks = [m.register_forward_hook(partial(check, path)) for path, m in resident.module.named_modules() if path]
    try:
        resident.run(hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None

"""A checkpoint as a sequence of blocks that can be loaded, run and dropped one after the other."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import Linear
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.cycles import Cycles
from quantkit.calibration.walk.passes import CHUNK_TOKENS, chunk_samples
from quantkit.calibration.walk.resident import (
    Endings,
    Resident,
    find_linears,
    kept_width,
    load_block,
    load_parameters,
    observe,
    remember,
)
from quantkit.calibration.walk.settings import fingerprint
from quantkit.calibration.walk.skeleton import (
    Arguments,
    Skeleton,
    Tokens,
    build_skeleton,
    fill_buffers,
    run_to_blocks,
)
from quantkit.calibration.walk.threads import Workers
from quantkit.calibration.walk.weights import held_by, locate, read_some
from quantkit.errors import InputError, ResourceError, UsageError
from quantkit.families.describe import find_family, shape_of
from quantkit.families.names import expert_of
from quantkit.machine import core_count, memory_limit_bytes
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import require_runnable
from quantkit.tensors import U8

CACHE_ARGUMENTS = ("cache", "past_key_values")  # of blocks: since transformers 5.24, and before
SETTLED_CHUNKS = 16  # embedded before activations in files have to leave memory

Place = Callable[[int], U8]


def in_memory(nbytes: int) -> U8:
    """The default place of activations. Raises ResourceError when this process may not use so much memory."""
    available = memory_limit_bytes()
    if nbytes > available:
        raise ResourceError(
            f"activations take {nbytes:,} bytes, this process may use {available:,} bytes of memory",
            hint="use fewer --samples or a smaller --seqlen",
        )
    return np.empty(nbytes, np.uint8)


def nothing_mapped() -> None:
    """Activations in memory stay there."""


@record
class BlockModel:
    """A model to be walked through; one walk at a time.

    `scratch(nbytes)` gives a writable uint8 array for activations: in memory, or a mapped file where they are too
    large for it. `settle` is called between chunks, so that what is mapped need not stay in memory. `endings` is what
    runs have shown of the blocks' modules.
    """

    checkpoint: Checkpoint
    skeleton: Skeleton
    device: torch.device
    threads: int
    scratch: Place = in_memory
    settle: Callable[[], None] = nothing_mapped
    endings: Endings = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.skeleton.blocks)

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of the blocks that a text goes through, in that order: every block once, or in cycles."""
        return self.skeleton.steps

    @property
    def cycles(self) -> Cycles | None:
        """How a text goes through the blocks more than once; None where it does not."""
        return self.skeleton.cycles

    def calls(self, index: int) -> int:
        """How many times a block is run, or the head."""
        return 1 if self.cycles is None or index == self.count else self.cycles.calls(index)

    @property
    def rows(self) -> int:
        """Rows of the embedding: token ids are below."""
        embedding: nn.Embedding = self.skeleton.model.get_input_embeddings()
        return embedding.num_embeddings

    def new_activations(self, shape: tuple[int, ...]) -> Tensor:
        """Uninitialized float32 activations in the model's scratch space."""
        nbytes = 4 * int(np.prod(shape, dtype=np.int64))
        return torch.from_numpy(self.scratch(nbytes).view(np.float32)).reshape(shape)

    def token_bytes(self, resident: Resident, seqlen: int) -> int:
        """About how much memory one token takes inside a block: what the linears it goes through read and give."""
        config = self.skeleton.model.config
        width = sum(share * (linear.rows + linear.cols) for linear, share in self._met(resident))
        scores = 2 * getattr(config, "num_attention_heads", 0) * seqlen if config._attn_implementation == "eager" else 0
        return 4 * (width + scores)

    def kept_bytes(self, resident: Resident) -> int:
        """How much memory it takes to keep what runs of a block leave to later runs, for one token."""
        return 4 * sum(share * kept_width(resident, linear, self.endings) for linear, share in self._met(resident))

    def _met(self, resident: Resident) -> Iterator[tuple[Linear, int]]:
        """The linears that a token goes through, one expert for all with the number that a token is given to."""
        for linear in resident.linears.values():
            expert = expert_of(linear.name)
            if not expert:
                yield linear, 1 if expert is None else self._chosen

    @cached_property
    def _chosen(self) -> int:
        """How many experts a token is given to, whatever config.json calls that; the most where layers differ."""
        family, _ = find_family(self.checkpoint.config)
        return shape_of(family.numbers(self.checkpoint.config, self.checkpoint.tensors())).experts_used

    @property
    def head_size(self) -> int:
        """Channels of an attention head, 0 for a model without; the largest where layers differ."""
        config = self.skeleton.model.config
        heads = getattr(config, "num_attention_heads", None)
        return largest_of_layers(config, "head_dim") or (config.hidden_size // heads if heads else 0)

    def fingerprint(self) -> str:
        """What tells this model from every other, see `settings.fingerprint`."""
        return fingerprint(self.checkpoint)


def largest_of_layers(config: Any, name: str) -> int:
    """The largest of a number that a configuration may have for each layer (Gemma 4's heads), 0 where it has none."""
    layers = getattr(config, "per_layer_config", None) or [config]
    return max(int(getattr(layer, name, None) or 0) for layer in layers)


def open_model(
    checkpoint: Checkpoint, *, device: str = "cpu", threads: int | None = None, scratch: Place = in_memory
) -> BlockModel:
    """The blocks of a Hugging Face checkpoint; reads no weights.

    `threads` defaults to the cores this process may use; results do not depend on it. Raises UnsupportedError for
    other containers and unknown architectures, InputError for a config.json that contradicts the tensors, UsageError
    for a kind of device not known here, ResourceError for one that this machine lacks.
    """
    require_runnable(checkpoint)
    place = _device(device)
    skeleton = build_skeleton(checkpoint)
    fill_buffers(skeleton, skeleton.model, place)
    count = threads or core_count()
    return BlockModel(checkpoint, skeleton, place, count, scratch)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in CHUNK_TOKENS:
        raise UsageError(f"calibration does not run on {name}", hint=f"devices: {', '.join(CHUNK_TOKENS)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda else f": torch {torch.__version__} is built without CUDA"
        raise ResourceError(f"this machine has no CUDA device that torch can use{built}", hint="use --device cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.index is not None and device.type == "cuda" and device.index >= count:
        raise ResourceError(f"this machine has {count} CUDA devices, there is no {name}", hint="use --device cuda")
    return device


@record
class Embedded:
    """Block inputs of all samples, float32 (n, seqlen, hidden) in host memory, and what blocks are called with."""

    hidden: Tensor
    arguments: tuple[Arguments, ...]


def token_rows(samples: Samples) -> NDArray[np.int64]:
    """The embedding rows that the samples use, ascending, int64 (u,)."""
    return np.unique(samples.tokens).astype(np.int64)


def read_embedding(model: BlockModel, rows: NDArray[np.int64]) -> Tensor:
    """Rows of the embedding table, float32 (len(rows), hidden); the rest of the table is not read."""
    if rows[0] < 0 or rows[-1] >= model.rows:
        bad = int(rows[0] if rows[0] < 0 else rows[-1])
        message = f"token {bad} has no row in the embedding, which has {model.rows:,}"
        hint = "the tokenizer and the weights are not of the same model"
        raise InputError(message, key="vocab_size", hint=hint)
    return _read_table(model, model.skeleton.model.get_input_embeddings(), rows)


def read_further(model: BlockModel, rows: NDArray[np.int64]) -> list[Tensor]:
    """The same rows of the other tables that tokens are looked up in."""
    return [_read_table(model, table, rows) for table in model.skeleton.tables[1:]]


def _read_table(model: BlockModel, table: nn.Embedding, rows: NDArray[np.int64]) -> Tensor:
    """Rows of what is looked up by tokens, float32 (len(rows), numbers), read in slabs. A token behind the end has the
    first row, as tokens of images have in tables of vectors for the blocks."""
    name = model.skeleton.name_of(table) + ".weight"
    source = locate(name, table.weight.shape, held_by(model.checkpoint))
    wanted = np.where(rows < table.num_embeddings, rows, 0)
    return torch.from_numpy(read_some(model.checkpoint.ref(source.tensor), wanted))


def load_start(model: BlockModel) -> None:
    """Read what stands beside the blocks and is not there yet: part of it is used before the first of them."""
    around = model.skeleton.model
    missing = [name for name in model.skeleton.around if around.get_parameter(name).is_meta]
    load_parameters(model.checkpoint, around, "", missing, model.device)


@contextmanager
def started(model: BlockModel, rows: NDArray[np.int64], table: Tensor) -> Iterator[None]:
    """What the model reads before its first block is in memory: these rows of its tables, `table` for the embedding."""
    load_start(model)
    tables = model.skeleton.tables
    empty = [each.weight for each in tables]
    values = [table, *read_further(model, rows)]
    for each, value in zip(tables, values, strict=True):
        each.weight = nn.Parameter(value.to(model.device), requires_grad=False)
    try:
        yield
    finally:
        for each, weight in zip(tables, empty, strict=True):
            each.weight = weight


def embed(model: BlockModel, samples: Samples, table: Tensor, workers: Workers) -> Embedded:
    """Run the samples up to the first block. `table` holds the embedding rows that `token_rows` names, in order."""
    rows = token_rows(samples)
    ids = torch.from_numpy(samples.tokens).long()
    numbers = torch.from_numpy(np.searchsorted(rows, samples.tokens))  # rows of `table`

    def run(chunk: slice) -> tuple[Tensor, tuple[Arguments, ...]]:
        tokens = Tokens(ids[chunk].to(model.device), numbers[chunk].to(model.device))
        return run_to_blocks(model.skeleton, tokens)

    with started(model, rows, table):
        first, arguments = workers.map(run, [slice(1)])[0]
        hidden = model.new_activations((*ids.shape, first.shape[-1]))
        step = chunk_samples(ids.shape[1], model.device)

        def fill(start: int) -> None:
            chunk = slice(start, start + step)
            hidden[chunk] = run(chunk)[0].to(hidden.device)

        for start in range(0, len(ids), SETTLED_CHUNKS * step):
            workers.map(fill, range(start, min(start + SETTLED_CHUNKS * step, len(ids)), step))
            model.settle()
    return Embedded(hidden, arguments)


def resident_block(model: BlockModel, index: int, arguments: Arguments) -> Resident:
    """Block `index` with its weights in memory as float32."""
    module, prefix = load_block(model.checkpoint, model.skeleton, index, model.device)
    local = threading.local()
    forward = _forward(module, local, arguments)
    linears = find_linears(model.checkpoint, module, prefix)
    resident = Resident(prefix, module, linears, forward, local, arguments.last)
    return remember(observe(resident), model.endings)


def block_at(model: BlockModel, step: int, arguments: Sequence[Arguments]) -> Resident:
    """The block of a step in memory, with the arguments that it is called with there."""
    return resident_block(model, model.steps[step], arguments[step])


def called_with(resident: Resident, arguments: Arguments) -> Resident:
    """The same block in memory, called with other arguments: those of samples of another length."""
    return replace(resident, forward=_forward(resident.module, resident.local, arguments))


def _forward(module: nn.Module, local: threading.local, arguments: Arguments) -> Callable[[Tensor], Tensor]:
    cache_argument = _cache_argument(module)

    def forward(hidden: Tensor) -> Tensor:
        cache = getattr(local, "cache", None)  # see passes.cache_peaks
        return arguments.call(module, hidden, {} if cache is None else {cache_argument: cache})

    return forward


def _cache_argument(block: nn.Module) -> str:
    """What a block calls the cache of its attention in the installed transformers."""
    known = inspect.signature(type(block).forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in known), CACHE_ARGUMENTS[0])

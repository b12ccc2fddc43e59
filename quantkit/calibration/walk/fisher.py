"""What errors of the embedding cost downstream: the Fisher information at its output, from one backward pass.

    G = sum over tokens of g g^T,  g = gradient of the log-likelihood at what the embedding gives for the token

with labels that the model itself is asked for, one for each position, so that G is the Fisher information and not its
empirical look-alike. An error d of a token's row then costs d G d^T / 2 of KL divergence for each time it is read, to
second order. The rows of the embedding are looked up: they have no inputs, and this is the Hessian that they have.

Samples go forward through the original weights, and what each block reads is kept; gradients then come back block by
block. The last blocks keep all that gradients need, where that takes no more than FISHER_KEPT_BYTES; any other is
computed once more from what it read, and of these one is in memory at a time. The kept activations (samples x seqlen x
hidden for each block) lie where the model's scratch space is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from quantkit.calibration.statistics.sums import Accumulator, Chunk, Gram, Statistics, accumulate
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.text.spec import FISHER_KEPT_BYTES, FISHER_TOKENS, fisher_tokens
from quantkit.calibration.walk.head import LOGITS_BYTES, load_head, load_matrix
from quantkit.calibration.walk.kept_runs import KeptRuns, Run, held_bytes, parameter_bytes
from quantkit.calibration.walk.model import BlockModel, block_at, read_embedding, started, token_rows
from quantkit.calibration.walk.passes import chunk_samples
from quantkit.calibration.walk.reading import Reading, is_readable
from quantkit.calibration.walk.resident import Resident, Wanted
from quantkit.calibration.walk.skeleton import Arguments, Tokens, run_to_blocks
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.errors import NonFiniteError
from quantkit.events import BlockProgress, Sink, ignore
from quantkit.machine import give_back_memory
from quantkit.records import record

SEED = 0x5EED
EMBEDDING, HEAD = "embedding", "head"

Result = TypeVar("Result")


class Watch(Protocol):
    """Sees, on the way back, what matrices read and the gradients at what they give, both of the tokens at hand.

    `head` and `seen` are called on any thread, for samples and tokens that are cut the same way for any number of
    threads; `add` and `embedding` on the caller's, in the order of the samples.
    """

    def linears(self, index: int) -> frozenset[str]:
        """The linears of a block that it wants to see."""
        ...

    def head(self, place: tuple[int, int], inputs: Tensor, log: Tensor) -> None:
        """What the head's matrix reads (tokens, cols), and the logarithms of what it predicts (tokens, vocabulary),
        of a sample from some token of it on."""
        ...

    def seen(self, samples: int, inputs: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Any:
        """Inputs (tokens, cols) and gradients (tokens, rows) by linear, of so many samples, one after the other."""
        ...

    def add(self, index: int, results: Sequence[Any]) -> None:
        """What `seen` has returned of a block, in the order of the samples."""
        ...

    def embedding(self, gradients: Tensor) -> None:
        """The gradients at what the embedding gives, (tokens, hidden), of the samples that follow."""
        ...


@record
class Downstream:
    """G of the embedding's output and, of the head, X^T X of what its matrix reads with the mean square norm of the
    gradients at what it gives: what an error of a row costs there, as often as the row is likely. `tokens` counts.
    `read` is what matrices read of the first samples, where that was asked for."""

    embedding: Gram
    head: Gram
    weight: float
    tokens: int
    read: Statistics | None = None

    def tied(self) -> Tensor:
        """The Hessian of a matrix that is both, float32 (hidden, hidden).

        Row r is read as often as its token is there, and counts in the head as often as the model expects that token,
        which is the same frequency: so both uses are weighed alike, each by what it costs.
        """
        return self.embedding.full().add_(self.head.full(), alpha=self.weight)


def downstream(
    model: BlockModel,
    samples: Samples,
    emit: Sink = ignore,
    watch: Watch | None = None,
    first: Samples | None = None,
) -> Downstream:
    """Run some samples forward and backward, under the eyes of `watch` if there is one.

    Where the runs show what matrices read of the `first` samples, that is in `read`. Raises NonFiniteError naming the
    block whose gradients are not finite."""
    embedding = model.skeleton.model.get_input_embeddings()
    tied = model.skeleton.model.get_output_embeddings().weight is embedding.weight
    tokens = FISHER_TOKENS if watch else fisher_tokens(embedding.embedding_dim, tied=tied)
    samples = samples.part(0, max(1, tokens // samples.tokens.shape[1]))
    with workers(model.threads, model.device) as pool:
        reads = first is not None and is_readable(model, first, samples)
        reading = Reading(model, first, pool) if first is not None and reads else None
        found = _Passes(model, samples, pool, emit, watch, reading).run()
    give_back_memory()
    return found


class _Passes:
    """The two passes: `kept` is what each block and the head read, (n, seqlen, hidden) each; `runs` are those of the
    last blocks, by number."""

    def __init__(
        self,
        model: BlockModel,
        samples: Samples,
        pool: Workers,
        emit: Sink,
        watch: Watch | None,
        reading: Reading | None,
    ) -> None:
        self._model, self._pool, self._emit, self._watch, self._reading = model, pool, emit, watch, reading
        self._rows = token_rows(samples)
        self._ids = torch.from_numpy(samples.tokens).long()
        self._numbers = torch.searchsorted(torch.from_numpy(self._rows), self._ids)
        self._table = read_embedding(model, self._rows)
        step = chunk_samples(self._ids.shape[1], model.device)
        self._chunks = [slice(first, min(first + step, len(self._ids))) for first in range(0, len(self._ids), step)]
        self._kept: list[Tensor] = []
        self._runs = KeptRuns()
        self._arguments: tuple[Arguments, ...] = ()

    def run(self) -> Downstream:
        with started(self._model, self._rows, self._table):
            self._forward()
            give_back_memory()  # before the head, whose rows of all tokens take most
            gradients, head, weight = self._from_head()
            for index in reversed(range(len(self._model.steps))):
                self._backward(index, gradients)
            embedding = self._at_embedding(gradients)
        read = self._reading.statistics() if self._reading else None
        return Downstream(embedding, head, weight, self._ids.numel(), read)

    def _each(self, work: Callable[[slice], Result], name: str, number: int) -> list[Result]:
        """What work gives for all chunks, in order; `number` is that of the block, from 1."""
        results = []
        for start in range(0, len(self._chunks), self._pool.count):
            wave = self._chunks[start : start + self._pool.count]
            results += self._pool.map(work, wave)
            self._model.settle()
            self._emit(BlockProgress("blocks", name, number, len(self._model.steps) + 1, wave[-1].stop, len(self._ids)))
        return results

    def _forward(self) -> None:
        # of one sequence: masks that several were seen with have as many rows, and fit no other number
        first, self._arguments = self._pool.map(self._embedded, [slice(1)])[0]
        hidden = self._new(first.shape[-1])

        def embed(chunk: slice) -> None:
            hidden[chunk] = self._embedded(chunk)[0].to(hidden.device)

        self._each(embed, EMBEDDING, 0)
        self._kept = [hidden]
        for index in range(len(self._model.steps)):
            read, given = self._kept[-1], self._new(first.shape[-1])
            self._advance(index, self._block(index), read, given)
            self._kept.append(given)

    def _advance(self, index: int, resident: Resident, read: Tensor, given: Tensor) -> None:
        """Run a block on all it reads; what it gives goes to `given`."""
        run, reading = self._room_for(index, resident, read), self._reading
        sites = reading.sites(resident, read) if reading else ()
        wanted = frozenset(site.name for site in sites)

        def advance(chunk: slice) -> dict[str, Tensor]:
            sought = wanted if reading and chunk.stop <= reading.count else frozenset()
            with torch.set_grad_enabled(run is not None):
                hidden, output, inputs = self._ran(resident, read[chunk], sought)
            if run is not None:
                run.found[chunk.start] = hidden, output
            given[chunk] = output.detach().to(given.device)
            return inputs

        found = self._each(advance, resident.name, index + 1)
        if reading:
            reading.add(resident, sites, [inputs for inputs in found if inputs])

    def _room_for(self, index: int, resident: Resident, read: Tensor) -> Run | None:
        """Where the runs of a block are kept; None where they are not: they are too large, by what one sample holds,
        or a watch has yet to say what it wants to see of them."""
        weights = parameter_bytes(resident.module)
        if self._watch is not None or weights > FISHER_KEPT_BYTES:
            return None
        alone = [read[:1].clone()]  # not a part of what all samples are read from
        one = self._pool.map(lambda first: held_bytes(resident.module, lambda: self._ran(resident, first)[1]), alone)
        return self._runs.room_for(index, Run(resident, weights + len(self._ids) * one[0]))

    def _ran(
        self, resident: Resident, read: Tensor, wanted: frozenset[str] = frozenset()
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What a block reads and gives, and what these linears read; gradients at what it reads, where they are on."""
        hidden = read.to(self._model.device).requires_grad_(torch.is_grad_enabled())
        output, inputs = resident.run(hidden, Wanted(wanted, only=False))
        assert output is not None
        return hidden, output, inputs

    def _from_head(self) -> tuple[Tensor, Gram, float]:
        """Gradients at what the head reads, and what its matrix costs."""
        head = load_head(self._model)
        load_matrix(self._model, head)
        (linear,) = head.linears.values()
        read = self._kept.pop()
        gradients = self._new(read.shape[-1])
        step = max(1, LOGITS_BYTES // (4 * linear.rows))
        count, seqlen = self._ids.shape
        begin = self._model.skeleton.predicts_from(seqlen)
        gradients[:, :begin] = 0
        tasks = [(sample, start) for sample in range(count) for start in range(begin, seqlen, step)]
        into = Accumulator(linear.cols, gram=True, device=self._model.device)
        local = threading.local()

        def given(module: nn.Module, args: object, output: Tensor) -> None:
            local.given = output

        head.module.get_submodule(linear.name.removesuffix(".weight")).register_forward_hook(given)
        squares = torch.zeros((), dtype=torch.float64)
        seen: list[Tensor] = []

        def piece(task: tuple[int, int]) -> tuple[Tensor, Tensor]:
            sample, start = task
            place = slice(start, start + step)
            hidden = read[sample, place].unsqueeze(0).to(self._model.device)
            see = partial(self._watch.head, task) if self._watch else None
            gradient, inputs, square = _head_gradient(head, hidden, SEED + sample * seqlen + start, local, see)
            gradients[sample, place] = gradient[0].to(gradients.device)
            return inputs, square

        for first in range(0, len(tasks), self._pool.count):
            found = self._pool.map(piece, tasks[first : first + self._pool.count])
            accumulate({HEAD: into}, [Chunk({HEAD: inputs}) for inputs, _ in found], self._pool)
            for (sample, _), (inputs, square) in zip(tasks[first:], found, strict=False):
                squares += square
                if self._reading and sample < self._reading.count:
                    seen.append(inputs)
            self._model.settle()
        if self._reading:
            self._reading.add_head(head, seen, seqlen - begin)
        assert into.sums.gram is not None
        return gradients, into.sums.gram, float(squares) / (count * (seqlen - begin))

    def _backward(self, index: int, gradients: Tensor) -> None:
        """Gradients at what a block gives become those at what it reads."""
        run, read, watch = self._runs.pop(index), self._kept.pop(), self._watch
        resident = run.resident if run else self._block(index)
        wanted = watch.linears(index) if watch else frozenset()
        given = _outputs_of(resident, wanted)

        def back(chunk: slice) -> Any:
            outputs: dict[str, Tensor] = {}
            inputs: dict[str, Tensor] = {}
            if run is not None:
                hidden, output = run.found.pop(chunk.start)
            else:
                given.found = outputs
                with torch.enable_grad():
                    hidden, output, inputs = self._ran(resident, read[chunk], wanted)
            to = gradients[chunk].to(output.device)
            found, *own = torch.autograd.grad(output, [hidden, *outputs.values()], to)
            flat = {n: _by_row(one, resident.linears[n].rows) for n, one in zip(outputs, own, strict=True)}
            # before the new gradients take the place of those that a linear at the end of the block has as its own
            result = watch.seen(len(hidden), inputs, flat) if watch else None
            gradients[chunk] = found.to(gradients.device)
            return result

        results = self._each(back, resident.name, index + 1)
        if watch:
            watch.add(index, results)
        if not all(bool(gradients[chunk].isfinite().all()) for chunk in self._chunks):
            what = f"gradients become infinite or NaN in block {resident.name}"
            raise NonFiniteError(what, hint="the weights are damaged, or too large for float32: try --method rtn")

    def _at_embedding(self, gradients: Tensor) -> Gram:
        """G, after whatever the model does between its embedding and the first block."""
        into = Accumulator(self._table.shape[1], gram=True, device=self._model.device)
        local = threading.local()

        def leaf(module: nn.Module, args: object, output: Tensor) -> None:
            local.given.append(output.requires_grad_())

        def back(chunk: slice) -> Tensor:
            local.given = []  # what is looked up of a source, and of a target behind it
            with torch.enable_grad():
                hidden, _ = self._embedded(chunk)
                found = torch.autograd.grad(hidden, local.given, gradients[chunk].to(hidden.device))
            flat: Tensor = torch.cat(found, 1).reshape(-1, found[0].shape[-1])
            return flat

        hook = self._model.skeleton.model.get_input_embeddings().register_forward_hook(leaf)
        try:
            for start in range(0, len(self._chunks), self._pool.count):
                found = self._pool.map(back, self._chunks[start : start + self._pool.count])
                accumulate({EMBEDDING: into}, [Chunk({EMBEDDING: one}) for one in found], self._pool)
                if self._watch:
                    for one in found:
                        self._watch.embedding(one)
        finally:
            hook.remove()
        assert into.sums.gram is not None
        return into.sums.gram

    def _embedded(self, chunk: slice) -> tuple[Tensor, tuple[Arguments, ...]]:
        device = self._model.device
        return run_to_blocks(self._model.skeleton, Tokens(self._ids[chunk].to(device), self._numbers[chunk].to(device)))

    def _block(self, index: int) -> Resident:
        return block_at(self._model, index, self._arguments)

    def _new(self, hidden: int) -> Tensor:
        return self._model.new_activations((*self._ids.shape, hidden))


def _by_row(gradient: Tensor, rows: int) -> Tensor:
    """Gradients at what a linear gives, (tokens, rows), as many tokens as it reads.

    Of one in groups of rows, each of which reads vectors of its own, a token counts once for each group, and has zeros
    at the rows of the others.
    """
    width = gradient.shape[-1]
    if width == rows:
        return gradient.reshape(-1, rows)
    own = torch.eye(rows // width, dtype=gradient.dtype, device=gradient.device).unsqueeze(-1)
    return (gradient.reshape(-1, len(own), 1, width) * own).reshape(-1, rows)


def _outputs_of(resident: Resident, linears: frozenset[str]) -> threading.local:
    """Where each thread finds what these linears gave in its run, by name, as `found`."""
    local = threading.local()

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> None:
        local.found[name] = output

    for name in sorted(linears):
        module = resident.module.get_submodule(name.removeprefix(resident.prefix).removesuffix(".weight"))
        module.register_forward_hook(partial(keep, name))
    return local


def drawn(log: Tensor, seed: int) -> Tensor:
    """A label for each token, int64 (tokens, 1), drawn with the chances whose logarithms are given (tokens, labels): by
    where one random number lies among the sums of chances. torch.multinomial draws one for every label, which takes ten
    times as long."""
    sums = log.detach().exp().cumsum(-1)
    numbers = torch.rand((len(log), 1), generator=torch.Generator(log.device).manual_seed(seed), device=log.device)
    found = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)
    return found.clamp_(max=log.shape[1] - 1)  # behind all: a product rounded up, or chances that are no numbers


def _head_gradient(
    head: Resident,
    hidden: Tensor,
    seed: int,
    local: threading.local,
    see: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the log-likelihood of labels that the model draws, at what the head reads (1, tokens, hidden);
    what its matrix reads (tokens, hidden); and the sum of squares of the gradient at what the matrix gives."""
    (name,) = head.linears
    with torch.enable_grad():
        logits, inputs = head.run(hidden.requires_grad_(), Wanted(frozenset({name}), only=False))
        assert logits is not None
        log = torch.log_softmax(logits[0], -1)
        gradient, given = torch.autograd.grad(log.gather(1, drawn(log, seed)).sum(), [hidden, local.given])
    if see is not None:
        see(inputs[name].detach(), log.detach())
    return gradient, inputs[name].detach(), given.square().sum(dtype=torch.float64).cpu()

"""What every type costs every tensor of a model, in nats of KL divergence: one walk forward, one pass back.

Forward, text goes through the original weights block by block: what each linear reads gives its Hessian, with which
some of its rows are rounded to every type, by the very method that a conversion would use. Their errors wait in scratch
space. Then other text goes forward and back (`calibration.walk.fisher`): what it reads, and the gradients of its
likelihood, say what these errors cost text that they were not fitted to. The embedding is rounded by gradients of one
part of that text and judged by those of the other, the head by what the model predicts.

Memory: a block, what calibration holds of it, and errors of ROWS rows of each of its linears, by type; activations and
errors of other blocks are where the model's scratch space is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import Accumulator, Chunk, accumulate
from quantkit.calibration.text.samples import Samples, widened
from quantkit.calibration.walk.fisher import Downstream, downstream
from quantkit.calibration.walk.model import BlockModel, read_embedding
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.calibration.walk.walk import BlockView, walk_blocks
from quantkit.errors import InterruptedRunError
from quantkit.events import BlockProgress, Event, Sink, TensorProgress
from quantkit.families.names import any_expert, expert_of
from quantkit.families.roles import Role
from quantkit.filling.rounding import importance_of, mean_hessian, seen_hessian
from quantkit.filling.shares import Share, shares_of
from quantkit.filling.tables import embedding_damping
from quantkit.methods.base import Layer
from quantkit.plan.base import Plan, Unit
from quantkit.tensors import F32
from quantkit.tuning.candidates import is_head
from quantkit.tuning.probes import (
    EXPERT_ROWS,
    EXPERTS,
    F64,
    ROWS,
    TABLE_ROWS,
    Known,
    Probe,
    Rounder,
    TableRows,
    likely_rows,
    looked_up,
    predicted,
    sampled,
)

STAGE = "sensitivity"
CHUNK = 1024  # tokens of what is looked at together outside blocks
BACK = 0.5  # of the time that the first walk takes, the way there and back does: about, for a bar
TAIL = 0.25  # of the chances of rows of the vocabulary goes to all alike: those that the text has not, too


@dataclass(frozen=True)
class Task:
    """What to measure: the units of a plan, the types of each by name, text to learn from and text to judge by, and
    windows of the shipped text to widen what is learned from by."""

    model: BlockModel
    plan: Plan
    types: Mapping[str, Sequence[str]]
    learned: Samples
    judged: Samples
    shipped: Samples | None = None


Costs = dict[str, dict[str, float]]


def measure(task: Task, emit: Sink, stop: Callable[[], bool]) -> Costs:
    """Nats per token by tensor and type; a tensor that is no linear of a block in memory is left out.

    Raises InterruptedRunError between blocks, and what walks and methods raise, naming block and module.
    """
    run = _Measuring(task, emit, stop)
    samples = widened(task.learned, task.model.rows, task.shipped) if task.plan.widened else task.learned
    walk_blocks(task.model, samples, run.visit, run.hear)
    found = downstream(task.model, task.judged, run.hear_back, run)
    run.tables(found)
    return {
        name: dict(zip(task.types[name], map(float, costs), strict=True)) for name, costs in sorted(run.costs.items())
    }


@dataclass
class _Table:
    """What is known of a matrix over the vocabulary, the head or the embedding: its rows, and for a head that stands
    alone their errors (types, rows, cols)."""

    unit: Unit
    rows: TableRows
    errors: F32 | None = None


class _Measuring:
    """The state: probes of blocks whose way back is to come, costs so far. It is what watches the backward pass."""

    def __init__(self, task: Task, emit: Sink, stop: Callable[[], bool]) -> None:
        self._task, self._emit, self._stop = task, emit, stop
        self._rounder = Rounder(task.plan.method)
        self._probes: dict[int, list[Probe]] = {}
        self._by_linear: dict[str, list[tuple[int, Probe]]] = {}
        self.costs: dict[str, F64] = {}
        units = [unit for unit in task.plan.units if unit.name in task.types]
        self._in_blocks: dict[int, list[Unit]] = {}
        for unit in units:
            if unit.tensor.layer is not None:
                self._in_blocks.setdefault(unit.tensor.layer, []).append(unit)
        rows = likely_rows(_counts(task.judged, task.model.rows), TABLE_ROWS)
        self._head = next((_Table(u, rows) for u in units if is_head(u, task.plan)), None)
        self._embedding = next((_Table(u, rows) for u in units if u.tensor.role is Role.TOKEN_EMBD), None)
        tokens, (windows, seqlen) = task.judged.tokens.size, task.judged.tokens.shape
        self._predictions = windows * (seqlen - task.model.skeleton.predicts_from(seqlen))
        if self._head is not None:
            self._read = task.model.new_activations((tokens, self._head.unit.tensor.cols))
            self._variances = torch.empty((tokens, len(rows.rows)))
            if self._predictions < tokens:  # nothing is predicted at the others
                self._read.zero_()
                self._variances.zero_()
        self._embedded: list[Tensor] = []
        self._walked, self._passes = 0, 0

    def hear(self, event: Event) -> None:
        """Pass on how far the first walk is, as the larger part of a stage of its own."""
        if isinstance(event, TensorProgress):
            self._walked = event.total_bytes
            self._emit(replace(event, stage=STAGE, total_bytes=self._bytes(1.0)))
        elif isinstance(event, BlockProgress):
            self._emit(replace(event, stage=STAGE))

    def hear_back(self, event: Event) -> None:
        """Pass on how far the way there and back is: each block twice, and the embedding."""
        if not isinstance(event, BlockProgress):
            return
        self._emit(replace(event, stage=STAGE))
        if event.samples == event.of_samples:
            self._passes += 1
            done, total = self._bytes(self._passes / (2 * event.count - 1)), self._bytes(1.0)
            self._emit(TensorProgress(STAGE, event.block, "f32", event.index, event.count, done, total))

    def _bytes(self, back: float) -> int:
        return self._walked + int(BACK * back * self._walked)

    # --- forward ------------------------------------------------------------------------------------------------------

    def visit(self, index: int, block: BlockView) -> Mapping[str, Tensor]:
        """Round rows of every linear of a block, and of the head, to every type."""
        self._require_going()
        if block.is_head:
            if self._head is not None and self._head.unit.tensor.role is Role.OUTPUT:
                self._round_head(self._head, block)
            return {}
        wanted: dict[str, list[tuple[Unit, Share, int]]] = {}
        for unit in self._in_blocks.get(index, ()):
            shares = shares_of(unit, block.linears)
            chosen = shares if len(shares) <= EXPERTS else tuple(shares[k] for k in _spread(len(shares), EXPERTS))
            for share in chosen:
                wanted.setdefault(share.linear, []).append((unit, share, len(shares)))
        if not wanted:
            return {}
        statistics = block.statistics(list(wanted), hessian=self._task.plan.method is not None, final=True)
        by_site: dict[str, list[str]] = {}
        for linear in wanted:
            by_site.setdefault(statistics.site_of(linear).name, []).append(linear)
        probes = []
        for linears in by_site.values():
            sums = statistics.total(linears[0])
            mates = [other for other in wanted if any_expert(other) == any_expert(linears[0])]
            hessian, _ = seen_hessian(linears[0], sums, mean_hessian(statistics, mates))
            known = Known(hessian, importance_of(sums))
            probes += [self._probe(block, known, *one) for linear in linears for one in wanted[linear]]
        self._probes[index] = probes
        return {}

    def _probe(self, block: BlockView, known: Known, unit: Unit, share: Share, shares: int) -> Probe:
        weight = block.weight(share.linear)[share.start : share.stop].cpu().numpy()
        few = max(1, ROWS // shares) if shares <= ROWS // EXPERT_ROWS else EXPERT_ROWS
        rows, types = sampled(len(weight), few), self._task.types[unit.name]
        fed = unit.layout is not None
        plain = None if self._task.plan.method is not None and not fed else known.importance
        layer = Layer(unit.name, np.ascontiguousarray(weight[rows]), known.hessian if fed else None, plain)
        errors = self._rounder.errors(layer, types, block.run)
        kept = self._task.model.new_activations(errors.shape)
        kept.copy_(torch.from_numpy(errors))
        norms = np.square(weight, dtype=np.float64).sum(1)
        return Probe(unit.name, share, rows, kept, norms, shares / min(shares, EXPERTS))

    def _round_head(self, table: _Table, block: BlockView) -> None:
        (name,) = block.linears
        feedback = table.unit.layout is not None
        sums = block.statistics([name], hessian=feedback).total(name)
        index = torch.from_numpy(table.rows.rows)
        matrix = block.weight(name)
        weight = matrix[index.to(matrix.device)].float().cpu().numpy()
        plain = None if self._task.plan.method is not None and not feedback else importance_of(sums)
        gram = sums.gram.full() if sums.gram is not None else None
        layer = Layer(table.unit.name, weight, gram, plain)
        table.errors = self._rounder.errors(layer, self._task.types[table.unit.name], block.run)

    # --- and back: a Watch --------------------------------------------------------------------------------------------

    def linears(self, index: int) -> frozenset[str]:
        """The linears of a block that have probes."""
        self._require_going()
        self._by_linear = {}
        for number, probe in enumerate(self._probes.get(index, ())):
            self._by_linear.setdefault(probe.share.linear, []).append((number, probe))
        return frozenset(self._by_linear)

    def head(self, place: tuple[int, int], inputs: Tensor, log: Tensor) -> None:
        """Keep what the head reads, and p (1 - p) of its chosen rows."""
        if self._head is None:
            return
        rows = torch.from_numpy(self._head.rows.rows).to(log.device)
        chances = log[:, rows].exp()
        start = place[0] * self._task.judged.tokens.shape[1] + place[1]
        self._read[start : start + len(inputs)] = inputs.cpu()
        self._variances[start : start + len(inputs)] = (chances * (1 - chances)).cpu()

    def seen(self, samples: int, inputs: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[int, Any]:
        """What each probe's errors do to these samples. Experts read tokens of any of them, which is as right, and
        says less."""
        found: dict[int, Any] = {}
        for name, probes in self._by_linear.items():
            if name not in gradients or not len(gradients[name]):
                continue
            read = inputs[name].detach()
            parts = samples if expert_of(name) is None and len(read) % samples == 0 else 1
            found |= {number: probe.squares(read, gradients[name], parts) for number, probe in probes}
        return found

    def add(self, index: int, results: Sequence[dict[int, Any]]) -> None:
        """Add up what a block's probes saw, and forget them."""
        for number, probe in enumerate(self._probes.pop(index, ())):
            mine = [one[number] for one in results if number in one]
            cost = probe.cost(mine, self._predictions)
            self.costs[probe.unit] = self.costs.get(probe.unit, np.zeros(len(cost))) + cost

    def embedding(self, gradients: Tensor) -> None:
        """Keep gradients at what the embedding gives."""
        if self._embedding is not None:
            self._embedded.append(gradients.cpu())

    # --- what lies outside blocks -------------------------------------------------------------------------------------

    def tables(self, found: Downstream) -> None:
        """The costs of the head and of the embedding, or of the one matrix that is both."""
        self._require_going()
        head, embedding = self._head, self._embedding
        with workers(self._task.model.threads, self._task.model.device) as pool:
            if head is not None and head.errors is not None:
                everything = slice(0, len(self._task.judged.tokens))
                self._put(head, self._of_head(pool, head, head.errors, everything))
            if embedding is not None:
                self._put(embedding, self._of_embedding(pool, embedding, found))

    def _put(self, table: _Table, squares: F64) -> None:
        self.costs[table.unit.name] = squares / (2 * self._predictions)

    def _of_embedding(self, pool: Workers, table: _Table, found: Downstream) -> F64:
        """Rounded by the gradients of one half of the samples, judged by those of the other, both ways."""
        tokens, gradients = self._task.judged.tokens, torch.cat(self._embedded)
        gradients = gradients.reshape(*tokens.shape, -1)
        half, everything = len(tokens) // 2, slice(0, len(tokens))
        folds = [(slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))]
        tied = table.unit is (self._head.unit if self._head else None)
        weight = read_embedding(self._task.model, table.rows.rows).numpy()
        total = np.zeros(len(self._task.types[table.unit.name]))
        for fitted, judged in folds if half else [(everything, everything)]:
            own = gradients[fitted]
            hessian = _gram(pool, own, self._task.model.device)
            if tied:
                share = len(own) / len(tokens)
                hessian.add_(found.head.full(), alpha=found.weight * share)
            layer = Layer(table.unit.name, weight, hessian if table.unit.layout else None)
            damping = embedding_damping(tied)
            errors = self._rounder.errors(layer, self._task.types[table.unit.name], pool.map, damping)
            total = total + looked_up(errors, table.rows, tokens[judged], gradients[judged])
            if tied:
                total = total + self._of_head(pool, table, errors, judged)
        return total

    def _of_head(self, pool: Workers, table: _Table, errors: F32, samples: slice) -> F64:
        """What errors of rows of the head cost some samples, in sums over tokens."""
        seqlen = self._task.judged.tokens.shape[1]
        first, last, _ = samples.indices(len(self._task.judged.tokens))
        pieces = [slice(k, min(k + CHUNK, last * seqlen)) for k in range(first * seqlen, last * seqlen, CHUNK)]
        given = torch.from_numpy(errors)
        results = pool.map(lambda piece: predicted(given, self._read[piece], self._variances[piece]), pieces)
        found: F64 = (sum(results) / table.rows.chances).sum(axis=1)
        return found

    def _require_going(self) -> None:
        if self._stop():
            raise InterruptedRunError("interrupted", hint="run the same command again: it measures anew")


def _counts(samples: Samples, rows: int) -> F64:
    """How often each row of the vocabulary is there, and a little for those that are not."""
    counts = np.bincount(samples.tokens.reshape(-1), minlength=rows).astype(np.float64)
    found: F64 = counts + TAIL / (1 - TAIL) * samples.tokens.size / rows
    return found


def _gram(pool: Workers, gradients: Tensor, device: torch.device) -> Tensor:
    """The sum of g g^T over all gradients, float32 (hidden, hidden), the same for any number of threads."""
    flat = gradients.reshape(-1, gradients.shape[-1])
    into = Accumulator(flat.shape[1], gram=True, device=device)
    for start in range(0, len(flat), CHUNK):
        accumulate({STAGE: into}, [Chunk({STAGE: flat[start : start + CHUNK].to(device)})], pool)
    assert into.sums.gram is not None
    return into.sums.gram.full()


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of the first `count` numbers, evenly spread."""
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]

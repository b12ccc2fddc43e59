"""What every type costs every tensor of a model, in nats of KL divergence: one walk forward, a pass back for each text.

Forward, text goes through the original weights block by block: what each linear reads gives its Hessian, with which
some of its rows are rounded to every type, by the very method that a conversion would use. Their errors wait in scratch
space. Then other text of the same data goes forward and back (`tuning.judging`) and, where there is some, text of other
kinds: what they read, and the gradients of their likelihood, say what these errors cost text that they were not fitted
to. The head is judged by what the model predicts; the embedding is rounded by gradients of the first of these texts.

Memory: a block, what calibration holds of it, errors of ROWS rows of each of its linears, by type, and for queries and
keys how rows make up for each other; activations and errors of other blocks are where the model's scratch space is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.text.samples import Samples, widened
from quantkit.calibration.walk.fisher import downstream
from quantkit.calibration.walk.model import BlockModel
from quantkit.calibration.walk.walk import BlockView, walk_blocks
from quantkit.errors import InterruptedRunError
from quantkit.events import BlockProgress, Event, Sink, TensorProgress
from quantkit.families.names import any_expert
from quantkit.families.roles import Role
from quantkit.filling.rounding import importance_of, mean_hessian, seen_hessian
from quantkit.filling.shares import Share, shares_of
from quantkit.methods.base import Layer
from quantkit.plan.base import Plan, Unit
from quantkit.records import record
from quantkit.tuning.candidates import is_head
from quantkit.tuning.judging import Judged, Judging, Rounded, Table
from quantkit.tuning.probes import (
    EXPERT_ROWS,
    EXPERTS,
    F64,
    ROWS,
    TABLE_ROWS,
    Known,
    Probe,
    Rounder,
    likely_rows,
    mixed,
    sampled,
)

STAGE = "sensitivity"
BACK = 0.5  # of the time that the first walk takes, the ways there and back do: about, for a bar


@record
class Task:
    """What to measure: the units of a plan, the types of each by name, text to learn from and text to judge by,
    windows of the shipped text to widen what is learned from by, and text of other kinds to judge by as well."""

    model: BlockModel
    plan: Plan
    types: Mapping[str, Sequence[str]]
    learned: Samples
    judged: Samples
    shipped: Samples | None = None
    elsewhere: Samples | None = None

    @property
    def texts(self) -> tuple[Samples, ...]:
        """The texts to judge by."""
        return (self.judged,) if self.elsewhere is None else (self.judged, self.elsewhere)


def measure(task: Task, emit: Sink, stop: Callable[[], bool]) -> tuple[Judged, ...]:
    """What the types cost each of the task's texts; a tensor that is no linear of a block in memory is left out.

    Raises InterruptedRunError between blocks, and what walks and methods raise, naming block and module.
    """

    def require_going() -> None:
        if stop():
            raise InterruptedRunError("interrupted", hint="run the same command again: it measures anew")

    bar, run = _Bar(emit, len(task.texts)), _Rounding(task, require_going)
    samples = widened(task.learned, task.model.rows, task.shipped) if task.plan.widened else task.learned
    walk_blocks(task.model, samples, run.visit, bar.hear)
    found: list[Judged] = []
    fitted: Tensor | None = None
    for text in task.texts:
        judging = Judging(task.model, run.rounded, text, require_going, many=text is not task.judged)
        seen = downstream(task.model, text, bar.hear_back, judging)
        require_going()
        found.append(judging.judged(seen, fitted))
        fitted = judging.hessian(seen) if fitted is None else fitted
    return tuple(found)


@dataclass
class _Bar:
    """How far a measurement is, as one stage: the first walk, then each of so many ways there and back."""

    emit: Sink
    texts: int
    walked: int = 0
    passes: int = 0

    def hear(self, event: Event) -> None:
        """Pass on how far the first walk is, as the larger part of the stage."""
        if isinstance(event, TensorProgress):
            self.walked = event.total_bytes
            self.emit(replace(event, stage=STAGE, total_bytes=self._bytes(1.0)))
        elif isinstance(event, BlockProgress):
            self.emit(replace(event, stage=STAGE))

    def hear_back(self, event: Event) -> None:
        """Pass on how far the ways there and back are: each block twice, and the embedding."""
        if not isinstance(event, BlockProgress):
            return
        self.emit(replace(event, stage=STAGE))
        if event.samples == event.of_samples:
            self.passes += 1
            done = self._bytes(self.passes / (self.texts * (2 * event.count - 1)))
            self.emit(TensorProgress(STAGE, event.block, "f32", event.index, event.count, done, self._bytes(1.0)))

    def _bytes(self, back: float) -> int:
        return self.walked + int(BACK * back * self.walked)


class _Rounding:
    """The walk forward, which rounds rows of every linear of a block, and of the head, to every type."""

    def __init__(self, task: Task, require: Callable[[], None]) -> None:
        self._task, self._require = task, require
        units = [unit for unit in task.plan.units if unit.name in task.types]
        self._in_blocks: dict[int, list[Unit]] = {}
        for unit in units:
            if unit.tensor.layer is not None:
                self._in_blocks.setdefault(unit.tensor.layer, []).append(unit)
        rows = likely_rows(_counts(task.texts, task.model.rows), TABLE_ROWS)
        self.rounded = Rounded(
            Rounder(task.plan.method),
            task.types,
            {unit.name: unit.word for unit in units},
            next((Table(u, rows) for u in units if is_head(u, task.plan)), None),
            next((Table(u, rows) for u in units if u.tensor.role is Role.TOKEN_EMBD), None),
        )

    def visit(self, index: int, block: BlockView) -> Mapping[str, Tensor]:
        """Round rows of every linear of a block, and of the head, to every type."""
        self._require()
        if block.is_head:
            if self.rounded.head is not None and self.rounded.head.unit.tensor.role is Role.OUTPUT:
                self._round_head(self.rounded.head, block)
            return {}
        wanted: dict[str, list[tuple[Unit, Share, int]]] = {}
        for unit in self._in_blocks.get(index, ()):
            shares = shares_of(unit, block.linears)
            chosen = shares if len(shares) <= EXPERTS else tuple(shares[k] for k in _spread(len(shares), EXPERTS))
            for share in chosen:
                wanted.setdefault(share.linear, []).append((unit, share, len(shares)))
        if not wanted:
            return {}
        feedback = self._task.plan.method is not None
        statistics = block.statistics(list(wanted), hessian=feedback, outputs=feedback, final=True)
        by_site: dict[str, list[str]] = {}
        for linear in wanted:
            by_site.setdefault(statistics.site_of(linear).name, []).append(linear)
        probes = []
        for linears in by_site.values():
            sums = statistics.total(linears[0])
            mates = [other for other in wanted if any_expert(other) == any_expert(linears[0])]
            hessian, _ = seen_hessian(linears[0], sums, mean_hessian(statistics, mates))
            for linear in linears:
                known = Known(hessian, importance_of(sums), statistics.outputs.get(linear))
                probes += [self._probe(block, known, *one) for one in wanted[linear]]
        self.rounded.probes[index] = probes
        return {}

    def _probe(self, block: BlockView, known: Known, unit: Unit, share: Share, shares: int) -> Probe:
        weight = block.weight(share.linear)[share.start : share.stop].cpu().numpy()
        few = max(1, ROWS // shares) if shares <= ROWS // EXPERT_ROWS else EXPERT_ROWS
        rows, types = sampled(len(weight), few), self._task.types[unit.name]
        fed = unit.layout is not None
        plain = None if self._task.plan.method is not None and not fed else known.importance
        layer = Layer(unit.name, np.ascontiguousarray(weight[rows]), known.hessian if fed else None, plain)
        errors = self.rounded.rounder.errors(layer, types, block.run)
        norms = np.square(weight, dtype=np.float64).sum(1)
        outputs = known.outputs.blocks(share.start, share.stop) if known.outputs is not None else ()
        spread = self.rounded.rounder.spread(outputs, block.run, unit.name)
        return Probe(
            unit.name, share, rows, self._kept(torch.from_numpy(errors)), norms, shares / min(shares, EXPERTS),
            tuple(map(self._kept, spread)),
            np.array([self.rounded.rounder.feeds(layer, one) for one in types]),
        )  # fmt: skip

    def _kept(self, values: Tensor) -> Tensor:
        """A copy in scratch space."""
        kept = self._task.model.new_activations(values.shape)
        kept.copy_(values)
        return kept

    def _round_head(self, table: Table, block: BlockView) -> None:
        (name,) = block.linears
        feedback = table.unit.layout is not None
        sums = block.statistics([name], hessian=feedback).total(name)
        index = torch.from_numpy(table.rows.rows)
        matrix = block.weight(name)
        weight = matrix[index.to(matrix.device)].float().cpu().numpy()
        plain = None if self._task.plan.method is not None and not feedback else importance_of(sums)
        gram = sums.gram.full() if sums.gram is not None else None
        layer = Layer(table.unit.name, weight, gram, plain)
        table.errors = self.rounded.rounder.errors(layer, self._task.types[table.unit.name], block.run)


def _counts(texts: Sequence[Samples], rows: int) -> F64:
    """How often each row of the vocabulary is there, each text counted alike, and a little for those that are not."""
    shares = [np.bincount(text.tokens.reshape(-1), minlength=rows) / text.tokens.size for text in texts]
    return mixed(np.mean(shares, 0))


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of the first `count` numbers, evenly spread."""
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]

"""What errors of weights cost a text: what it reads, and the gradients of its likelihood, on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import Accumulator, Chunk, accumulate
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.fisher import Downstream
from quantkit.calibration.walk.model import BlockModel, read_embedding
from quantkit.calibration.walk.passes import chunk_samples
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.families.names import expert_of
from quantkit.filling.tables import embedding_damping
from quantkit.methods.base import Layer
from quantkit.plan.base import Unit
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.tuning.middle import Mask, middle, standard_error
from quantkit.tuning.probes import (
    F64,
    TABLE_ROWS,
    Probe,
    Rounder,
    TableRows,
    likely_rows,
    looked_at,
    looked_up,
    mixed,
    predicted,
)

EMBEDDING = "embedding"
CHUNK = 1024  # tokens of what is looked at together outside blocks
MOST_NATS = 600.0  # of a token, so that perplexities are numbers


@dataclass
class Table:
    """What is known of a matrix over the vocabulary, the head or the embedding: rows that the head is judged by, and
    where it stands alone their errors (types, rows, cols)."""

    unit: Unit
    rows: TableRows
    errors: F32 | None = None


@record
class Rounded:
    """What there is to judge: types by tensor, the plan's own `words` among them, probes by block, head and embedding,
    which are the same table where they are one matrix."""

    rounder: Rounder
    types: Mapping[str, Sequence[str]]
    words: Mapping[str, str]
    head: Table | None
    embedding: Table | None
    probes: dict[int, list[Probe]] = field(default_factory=dict)


@record
class Judged:
    """Nats per token by tensor and type. `error` is the standard error, over parts of the text, of the sum that the
    plan's own types cost; None for text of one part. `perplexity` is how well the model itself reads the windows
    that count."""

    costs: dict[str, dict[str, float]]
    error: float | None
    perplexity: float | None


class Judging:
    """Watches one text go there and back (`calibration.walk.fisher`), and adds up what it costs: all its windows, or
    the middle half of them where it is of `many` kinds (`tuning.middle`). Where experts mix the tokens of windows that
    run together, these are one part of the text: put aside, and drawn for the standard error, as one."""

    def __init__(
        self, model: BlockModel, rounded: Rounded, text: Samples, require: Callable[[], None], *, many: bool = False
    ) -> None:
        self._model, self._rounded, self._text, self._require, self._many = model, rounded, text, require, many
        self._by_linear: dict[str, list[tuple[int, Probe]]] = {}
        self._found: list[_Found] = []
        windows, seqlen = text.tokens.shape
        self._scored: int = seqlen - model.skeleton.predicts_from(seqlen)
        step = chunk_samples(seqlen, model.device)
        self._likelihoods = np.zeros(text.tokens.shape)  # their logarithms, of the token behind each
        self._parts = np.arange(windows)  # of the text that can be told apart: which one each window is in
        self._chunks = [slice(first, min(first + step, windows)) for first in range(0, windows, step)]
        if rounded.head is not None:
            self._read = model.new_activations((text.tokens.size, rounded.head.unit.tensor.cols))
            self._variances = torch.empty((text.tokens.size, len(rounded.head.rows.rows)))
            if self._scored < seqlen:  # nothing is predicted at the others
                self._read.zero_()
                self._variances.zero_()
        self._embedded: list[Tensor] = []

    # --- a Watch ------------------------------------------------------------------------------------------------------

    def linears(self, index: int) -> frozenset[str]:
        """The linears of a block that have probes."""
        self._require()
        self._by_linear = {}
        for number, probe in enumerate(self._rounded.probes.get(index, ())):
            self._by_linear.setdefault(probe.share.linear, []).append((number, probe))
        return frozenset(self._by_linear)

    def head(self, place: tuple[int, int], inputs: Tensor, log: Tensor) -> None:
        """Keep how likely the text is, what the head reads, and p (1 - p) of its chosen rows."""
        sample, first = place
        behind = torch.from_numpy(self._text.tokens[sample, first + 1 : first + 1 + len(log)]).long().to(log.device)
        likely = log[: len(behind)].gather(1, behind[:, None])[:, 0]
        self._likelihoods[sample, first : first + len(behind)] = likely.cpu()
        if self._rounded.head is None:
            return
        rows = torch.from_numpy(self._rounded.head.rows.rows).to(log.device)
        chances = log[:, rows].exp()
        start = sample * self._text.tokens.shape[1] + first
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
        """Keep what a block's probes saw, by window; those of a chunk that cannot be told apart have equal shares, and
        are one part from then on."""
        for number, probe in enumerate(self._rounded.probes.get(index, ())):
            found = np.zeros((len(self._text.tokens), probe.width))
            for chunk, one in zip(self._chunks, results, strict=True):
                if number in one:
                    found[chunk] = one[number] * (len(one[number]) / (chunk.stop - chunk.start))
                    if len(one[number]) < chunk.stop - chunk.start:
                        self._parts = np.repeat(np.arange(len(self._chunks)), [c.stop - c.start for c in self._chunks])
            self._found.append(_Found(probe.unit, found, probe.cost))

    def embedding(self, gradients: Tensor) -> None:
        """Keep gradients at what the embedding gives."""
        if self._rounded.embedding is not None:
            self._embedded.append(gradients.cpu())

    # --- what lies outside blocks -------------------------------------------------------------------------------------

    def judged(self, found: Downstream, fitted: Tensor | None) -> Judged:
        """All costs, those of the head and of the embedding, or of the one matrix that is both, among them. The
        embedding is rounded with the Hessian `fitted`; without one by the gradients of one half of this text and
        judged by those of the other, both ways."""
        head, embedding = self._rounded.head, self._rounded.embedding
        everything = slice(0, len(self._text.tokens))
        with workers(self._model.threads, self._model.device) as pool:
            if head is not None and head.errors is not None:
                squares = self._of_head(pool, head, head.errors, everything)
                self._found.append(_Found(head.unit.name, squares, _of_table))
            if embedding is not None:
                squares = self._of_embedding(pool, embedding, found, fitted)
                self._found.append(_Found(embedding.unit.name, squares, _of_table))
        own = np.bincount(self._parts, self._of_own_types()) / np.bincount(self._parts)
        kept = middle(own) if self._many else np.ones(len(own), bool)
        counted = kept[self._parts]
        costs: dict[str, F64] = {}
        for one in self._found:
            cost = one.cost(one.squares[counted], int(np.count_nonzero(counted)) * self._scored)
            costs[one.unit] = costs.get(one.unit, np.zeros(len(cost))) + cost
        types = self._rounded.types
        by_type = {name: dict(zip(types[name], map(float, costs[name]), strict=True)) for name in sorted(costs)}
        return Judged(by_type, standard_error(own, kept), self._perplexity(counted))

    def _perplexity(self, counted: Mask) -> float | None:
        """Of the tokens of these windows; None where none is predicted."""
        predictions = int(np.count_nonzero(counted)) * (self._scored - 1)
        return exp(min(-self._likelihoods[counted].sum() / predictions, MOST_NATS)) if predictions else None

    def _of_own_types(self) -> F64:
        """What the plan's own types cost each window, in nats for each of its tokens, (windows,)."""
        windows = len(self._text.tokens)
        total = np.zeros(windows)
        for one in self._found:
            types, word = self._rounded.types[one.unit], self._rounded.words[one.unit]
            if word not in types:
                continue
            number = types.index(word)
            squares = one.squares[:, number]
            if squares.any():
                total += one.cost(one.squares, self._scored)[number] * squares / squares.sum()
        return total

    def hessian(self, found: Downstream) -> Tensor | None:
        """What the embedding is rounded with by the gradients of all samples, float32 (hidden, hidden); None without
        feedback."""
        table = self._rounded.embedding
        if table is None or table.unit.layout is None:
            return None
        with workers(self._model.threads, self._model.device) as pool:
            return self._hessian(pool, found, slice(None))

    def _hessian(self, pool: Workers, found: Downstream, samples: slice) -> Tensor:
        own = self._gradients()[samples]
        hessian = _gram(pool, own, self._model.device)
        if self._tied:
            hessian.add_(found.head.full(), alpha=found.weight * len(own) / len(self._text.tokens))
        return hessian

    @property
    def _tied(self) -> bool:
        head, embedding = self._rounded.head, self._rounded.embedding
        return head is not None and embedding is not None and head.unit is embedding.unit

    def _gradients(self) -> Tensor:
        """At what the embedding gives, (samples, seqlen, hidden)."""
        return torch.cat(self._embedded).reshape(*self._text.tokens.shape, -1)

    def _of_embedding(self, pool: Workers, table: Table, found: Downstream, fitted: Tensor | None) -> F64:
        count = len(self._text.tokens)
        if fitted is not None:
            return self._of_rows(pool, table, fitted, slice(0, count))
        half, everything = count // 2, slice(0, count)
        folds = [(slice(0, half), slice(half, count)), (slice(half, count), slice(0, half))]
        total = np.zeros((count, len(self._rounded.types[table.unit.name])))
        for learned, judged in folds if half else [(everything, everything)]:
            hessian = self._hessian(pool, found, learned) if table.unit.layout else None
            total[judged] = self._of_rows(pool, table, hessian, judged)
        return total

    def _of_rows(self, pool: Workers, table: Table, hessian: Tensor | None, samples: slice) -> F64:
        """What rows of the embedding, rounded with this Hessian, cost some samples, (samples, types). Those that are
        looked up are chosen by what they are expected to cost: one that is there once may cost more than all others."""
        tokens, gradients = self._text.tokens[samples], self._gradients()[samples]
        rows, squares = looked_at(tokens, gradients)
        weight = read_embedding(self._model, rows).numpy()
        some = likely_rows(mixed(squares * np.square(weight, dtype=np.float64).sum(1)), TABLE_ROWS)
        rows, weight = rows[some.rows], weight[some.rows]
        if self._tied:
            weight = np.concatenate([weight, read_embedding(self._model, table.rows.rows).numpy()])
        layer, types = Layer(table.unit.name, weight, hessian), self._rounded.types[table.unit.name]
        errors = self._rounded.rounder.errors(layer, types, pool.map, embedding_damping(self._tied))
        total = looked_up(errors[:, : len(rows)], TableRows(rows, some.chances), tokens, gradients)
        return total + self._of_head(pool, table, errors[:, len(rows) :], samples) if self._tied else total

    def _of_head(self, pool: Workers, table: Table, errors: F32, samples: slice) -> F64:
        """What errors of rows of the head cost some samples, (samples, types)."""
        seqlen, given = self._text.tokens.shape[1], torch.from_numpy(errors)

        def of_sample(sample: int) -> F64:
            total = np.zeros(len(errors))
            for start in range(sample * seqlen, (sample + 1) * seqlen, CHUNK):
                piece = slice(start, min(start + CHUNK, (sample + 1) * seqlen))
                squares = predicted(given, self._read[piece], self._variances[piece])
                total += (squares / table.rows.chances).sum(axis=1)
            return total

        return np.stack(pool.map(of_sample, range(*samples.indices(len(self._text.tokens)))))


@record
class _Found:
    """What errors of a unit's weight do to each window, (windows, ...), and how that becomes nats for each of so many
    tokens, by type."""

    unit: str
    squares: F64
    cost: Callable[[F64, int], F64]


def _of_table(squares: F64, tokens: int) -> F64:
    found: F64 = squares.sum(0) / (2 * tokens)
    return found


def _gram(pool: Workers, gradients: Tensor, device: torch.device) -> Tensor:
    """The sum of g g^T over all gradients, float32 (hidden, hidden), the same for any number of threads."""
    flat = gradients.reshape(-1, gradients.shape[-1])
    into = Accumulator(flat.shape[1], gram=True, device=device)
    for start in range(0, len(flat), CHUNK):
        accumulate({EMBEDDING: into}, [Chunk({EMBEDDING: flat[start : start + CHUNK].to(device)})], pool)
    assert into.sums.gram is not None
    return into.sums.gram.full()

"""What models write: greedy continuations of prompts, every side's own, by transformers' own code.

Prompts of nearly equal length run together, all at the same position and without padding: a row whose prompt has not
ended takes the prompt's next token, the others the token of their largest logit. So every prompt is continued as it
would be alone, in any architecture; only the order of sums inside a product may differ with the number of rows.

Keys and values are kept (recomputing 64 tokens behind 100 of a prompt would take some fifty times the arithmetic);
they take about as much memory as `cache_token_bytes` says for every token. Sides run one after the other, nothing of
one is needed for another. All prompts go through a block before the next is read. The blocks and the head of a side
stay in memory, in float32, where all of them take no more than `RESIDENT_SHARE` of what this process may use;
otherwise every step reads them once more, one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantkit.calibration.walk.model import BlockModel, called_with, open_model, resident_block
from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.skeleton import Arguments
from quantkit.calibration.walk.stepping import Table, cache_token_bytes, new_cache, run_on
from quantkit.calibration.walk.threads import Workers, workers
from quantkit.errors import InputError, NonFiniteError, ResourceError
from quantkit.evaluation.lockstep import Walker, round_inputs
from quantkit.evaluation.sides import Side
from quantkit.evaluation.vocabulary import ROWS, Head
from quantkit.evaluation.weights import Sketch
from quantkit.events import BlockProgress, Sink, StageStarted, ignore
from quantkit.machine import core_count, memory_limit_bytes
from quantkit.records import record
from quantkit.units import counted

STAGE = "generate"
TOGETHER = 16  # prompts of a group
SPREAD = 16  # tokens by which the longest prompt of a group may exceed its shortest
GROUP_TOKENS = 4096  # of the prompts of a group
HEAD_ROWS = 16  # hidden states that go through a slab of the head at once
RESIDENT_SHARE, CACHE_SHARE = 0.4, 0.25  # of the memory that this process may use

Done = Callable[[int, Sequence[int]], bool]


def at_no_text(prompt: int, tokens: Sequence[int]) -> bool:
    """No continuation ends before its time."""
    return False


@record
class Until:
    """Where a continuation ends before its last token: behind a token of `ids`, or where `done(number of the prompt,
    tokens so far)` says so."""

    ids: frozenset[int] = frozenset()
    done: Done = at_no_text


@dataclass
class _Group:
    """Prompts that run together: their numbers, and all tokens of each so far, of which the first `seen` are in the
    cache. `ended` says how many tokens the continuation of a row has that is complete; it goes on with the others.
    """

    numbers: list[int]
    prompts: list[list[int]]
    rows: list[list[int]]
    seen: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    cache: Any = None
    hidden: Tensor | None = None
    arguments: tuple[Arguments, ...] = ()

    @property
    def next(self) -> list[list[int]]:
        """The tokens that run next: at first as many as the shortest prompt has, then one of each row."""
        stop = min(map(len, self.prompts)) if self.seen == 0 else self.seen + 1
        return [row[self.seen : stop] for row in self.rows]


def continuations(
    sides: Sequence[Side],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    *,
    until: Until | None = None,
    threads: int | None = None,
    emit: Sink = ignore,
) -> list[list[list[int]]]:
    """For each side, for each prompt (ids of its tokens), the ids of at most `tokens` that it puts behind it: always
    the one of the largest logit, of equal ones the lowest. A token that ends a continuation is its last.

    The same for any number of `threads`. Raises InputError for an empty prompt and for tokens without an embedding
    row, NonFiniteError naming the side, ResourceError where the keys and values of a group do not fit,
    UnsupportedError for an architecture that is not run here.
    """
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {number + 1} has no token to continue", key="prompts", hint="give it some text")
    models = [open_model(side.checkpoint, threads=threads) for side in sides]
    rows = min((_vocabulary(side, model) for side, model in zip(sides, models, strict=True)), default=0)
    emit(
        StageStarted(
            STAGE,
            0,
            f"{counted(len(prompts), 'prompt')}, {counted(tokens, 'token')} each, {counted(len(sides), 'model')}",
        )
    )
    with workers(threads or core_count(), torch.device("cpu")) as pool:
        found = []
        for number, (side, model) in enumerate(zip(sides, models, strict=True)):
            beat = partial(_beat, emit, number, len(sides))
            found.append(_Writer(side, model, pool, rows).write(prompts, tokens, until or Until(), beat))
    return found


def _beat(emit: Sink, number: int, sides: int, step: int, steps: int) -> None:
    emit(BlockProgress(STAGE, f"model {number + 1} of {sides}", number + 1, sides, step, steps))


def _vocabulary(side: Side, model: BlockModel) -> int:
    head = model.skeleton.model.get_output_embeddings()
    return min(int(head.weight.shape[0]), side.vocabulary or head.weight.shape[0])


class _Writer:
    """One side at work."""

    def __init__(self, side: Side, model: BlockModel, pool: Workers, rows: int) -> None:
        self.side, self.model, self.pool, self.rows = side, model, pool, rows
        self.table = Table(model)
        self.head = Head(Walker(side, model, (), (), pool, Sketch()))
        self.blocks: dict[int, Resident] | None = {} if self._fits() else None
        if self.blocks is not None:
            self.head.kept = {}

    def _fits(self) -> bool:
        weights = sum(p.numel() for block in self.model.skeleton.blocks for p in block.parameters())
        weights += self.head.linear.rows * self.head.linear.cols
        return 4 * weights <= RESIDENT_SHARE * memory_limit_bytes()

    def write(
        self, prompts: Sequence[Sequence[int]], tokens: int, until: Until, beat: Callable[[int, int], None]
    ) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in prompts]
        for wave in self._waves(_grouped(prompts), tokens):
            spread = max(len(p) - min(map(len, g.prompts)) for g in wave for p in g.prompts)
            live, steps = wave, tokens + spread
            for step in range(steps):
                if not live or tokens < 1:
                    break
                self._step(live)
                for group, best in zip(live, self._best(live), strict=True):
                    _take(group, best, tokens, until)
                live = [group for group in live if len(group.ended) < len(group.rows)]
                beat(step + 1, steps)
            for group in wave:
                for at, number in enumerate(group.numbers):
                    first = len(group.prompts[at])
                    found[number] = group.rows[at][first : first + group.ended.get(at, 0)]
        return found

    def _waves(self, groups: Sequence[_Group], tokens: int) -> Iterator[list[_Group]]:
        """Groups whose keys and values are in memory at a time. Raises ResourceError for one too large."""
        room = int(CACHE_SHARE * memory_limit_bytes())
        wave: list[_Group] = []
        taken = 0
        for group in groups:
            length = max(map(len, group.prompts)) + tokens
            nbytes = len(group.rows) * length * cache_token_bytes(self.model)
            if nbytes > room:
                what = (
                    f"keys and values of {counted(len(group.rows), 'prompt')} "
                    f"of {counted(length, 'token')} take {nbytes:,} bytes"
                )
                raise ResourceError(f"{what}, {room:,} may be used", hint="use shorter prompts or fewer tokens")
            if wave and taken + nbytes > room:
                yield wave
                wave, taken = [], 0
            wave.append(group)
            taken += nbytes
        if wave:
            yield wave

    def _step(self, groups: Sequence[_Group]) -> None:
        """Run the next tokens of all groups through all blocks; `hidden` is that of each row's last token after it."""
        self.table.hold({token for group in groups for row in group.next for token in row})

        def embed(group: _Group) -> None:
            if group.cache is None:
                group.cache = new_cache(self.model)
            group.hidden, group.arguments = run_on(self.model, self.table.tokens(group.next), group.cache)

        def advance(group: _Group, block: Resident, index: int) -> None:
            assert group.hidden is not None
            group.hidden, _ = called_with(block, group.arguments[index]).run(group.hidden)

        def through(group: _Group) -> None:
            embed(group)
            for index, block in (self.blocks or {}).items():
                advance(group, block, index)

        if self.blocks:  # all of them, since the first step
            self.pool.map(through, groups)
        else:
            self.pool.map(embed, groups)
            for index in range(len(self.model.steps)):
                block = self._block(index, groups[0].arguments[index])
                self.pool.map(partial(advance, block=block, index=index), groups)
        for group in groups:
            assert group.hidden is not None
            group.seen += group.hidden.shape[1]
            group.hidden = group.hidden[:, -1]

    def _block(self, index: int, arguments: Arguments) -> Resident:
        known = (self.blocks or {}).get(self.model.steps.index(self.model.steps[index]))
        if known is not None:
            block = called_with(known, arguments)
        else:
            block = resident_block(self.model, self.model.steps[index], arguments)
            round_inputs(block, self.side)
        if self.blocks is not None:
            self.blocks[index] = block
        return block

    def _best(self, groups: Sequence[_Group]) -> list[list[int]]:
        """The token of the largest logit behind each row of each group."""
        hidden = torch.cat([group.hidden for group in groups if group.hidden is not None])
        top = torch.full((len(hidden),), -torch.inf)
        best = torch.zeros(len(hidden), dtype=torch.int64)

        def look(part: slice, start: int) -> None:
            largest, at = self.head.logits(hidden[part]).max(dim=1)
            better = ~(largest <= top[part])  # also where it is no number
            top[part] = torch.where(better, largest, top[part])
            best[part] = torch.where(better, at + start, best[part])

        parts = [slice(at, at + HEAD_ROWS) for at in range(0, len(hidden), HEAD_ROWS)]
        for start in range(0, self.rows, ROWS):
            self.head.load(start, min(start + ROWS, self.rows))
            self.pool.map(partial(look, start=start), parts)
        if not bool(top.isfinite().all()):
            what = f"{self.side.name}: logits of a continuation are no numbers"
            raise NonFiniteError(what, hint="look at the weights with quantkit inspect")
        found = iter(best.tolist())
        return [[next(found) for _ in group.rows] for group in groups]


def _grouped(prompts: Sequence[Sequence[int]]) -> list[_Group]:
    """Prompts in groups of nearly equal length, whatever number of threads will run them."""
    groups: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda n: len(prompts[n])):
        first = len(prompts[groups[-1][0]]) if groups else 0
        room = bool(groups) and len(groups[-1]) < TOGETHER and first * (len(groups[-1]) + 1) <= GROUP_TOKENS
        if room and len(prompts[number]) <= first + SPREAD:
            groups[-1].append(number)
        else:
            groups.append([number])
    chosen = [(numbers, [list(map(int, prompts[n])) for n in numbers]) for numbers in groups]
    return [_Group(numbers, own, [list(prompt) for prompt in own]) for numbers, own in chosen]


def _take(group: _Group, best: Sequence[int], tokens: int, until: Until) -> None:
    """Put the next token behind every row whose prompt has been seen."""
    for at, (row, prompt, token) in enumerate(zip(group.rows, group.prompts, best, strict=True)):
        if group.seen < len(row):
            continue  # its prompt goes on
        row.append(token)
        if at in group.ended:
            continue
        written = row[len(prompt) :]
        if token in until.ids or len(written) >= tokens or until.done(group.numbers[at], written):
            group.ended[at] = len(written)

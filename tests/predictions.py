"""What a model predicts after texts: logits of the next token, with one block in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quantkit.calibration.text.samples import samples_of
from quantkit.calibration.walk.model import open_model
from quantkit.calibration.walk.walk import BlockView, walk_blocks
from quantkit.events import Sink, ignore
from quantkit.source import Checkpoint
from quantkit.tensors import F32

Prepare = Callable[["BlockView"], None]


@dataclass(frozen=True)
class RunOptions:
    """How contexts are run. `prepare` sees each block before it runs; sequences have `least_tokens` at least."""

    threads: int | None = None
    emit: Sink = ignore
    prepare: Prepare = lambda block: None
    least_tokens: int = 1


def next_token_logits(
    checkpoint: Checkpoint, contexts: Sequence[Sequence[int]], options: RunOptions = RunOptions()
) -> F32:
    """Logits of the token after each context, float32 (contexts, vocabulary), with one block in memory.

    Contexts may differ in length; one that begins another costs nothing of its own. Raises what `walk_blocks` raises.
    """
    whole = {tuple(context): None for context in sorted(contexts, key=len, reverse=True)}
    rows: list[tuple[int, ...]] = []
    for context in whole:
        if not any(row[: len(context)] == context for row in rows):
            rows.append(context)
    places = [(next(n for n, row in enumerate(rows) if row[: len(c)] == tuple(c)), len(c) - 1) for c in contexts]
    seqlen = max(options.least_tokens, *map(len, rows))
    # what follows a context does not change what it predicts: attention looks back only
    padded = [[*row, *[row[0]] * (seqlen - len(row))] for row in rows]
    found: list[F32] = []

    def visit(index: int, block: BlockView) -> Mapping[str, Tensor]:
        options.prepare(block)
        if block.is_head:
            found.append(block.logits_at(places))
        return {}

    model = open_model(checkpoint, threads=options.threads)
    walk_blocks(model, samples_of(np.array(padded, np.int32)), visit, options.emit)
    return found[0]

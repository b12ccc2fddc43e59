"""How convert looks at what it has made, and how it reads the source for that: at the end, or with everybody else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.events import Sink, ignore
from quantkit.filling.work import ALONE, Beside
from quantkit.pipeline.output import Output
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan
from quantkit.quality.checks.base import Verification, VerifyOptions

if TYPE_CHECKING:
    from quantkit.pipeline.gating import Gating
    from quantkit.quality.against import Against

NOTHING = Verification(())
CONVERT_SAMPLE_ROWS = 64  # rows of each tensor that convert compares; `quantkit verify --against` compares all


def look(
    prepared: Prepared,
    plan: Plan,
    paths: Sequence[Path],
    output: Output,
    emit: Sink = ignore,
    layers: Sequence[Mapping[str, Any]] = (),
) -> Verification:
    """Look at finished files, published or not, as `quantkit verify` does; `layers` is what methods noted of each."""
    if not output.verify:
        return NOTHING
    from quantkit.pipeline.verify import verify_parts  # in convert by a thread of its own, beside others' work

    against, options = _compared(prepared, plan, output, layers)
    return verify_parts(paths, plan, against, options, prepared.source_run if options.engine else None, emit)


def _compared(
    prepared: Prepared, plan: Plan, output: Output, layers: Sequence[Mapping[str, Any]] = ()
) -> tuple[Against, VerifyOptions]:
    """What an artifact is compared with, and how."""
    from quantkit.quality.against import of_gguf, of_plan

    if plan.is_checkpoint:  # whole layers, which are decoded faster than single rows; no engine of convert
        return of_plan(prepared.checkpoint, plan, layers), VerifyOptions(threads=output.threads)
    options = VerifyOptions(engine_of(plan, output), None, CONVERT_SAMPLE_ROWS, output.threads)
    return of_gguf(prepared.reading(plan).reference_of(plan), layers), options


def engine_of(plan: Plan, output: Output) -> str | None:
    """The engine that is asked about what a plan makes: an encoder alone is nothing to run."""
    return None if plan.is_encoder else output.engine


@contextmanager
def reading_once(prepared: Prepared, plans: Sequence[Plan], output: Output, gating: Gating | None) -> Iterator[Beside]:
    """Who goes through the source beside the filling of files. Where there is a memory its bytes are kept, until the
    context ends, for all who read them: checks, and the run of the original for gates."""
    if output.memory is None:
        yield ALONE
        return
    from quantkit.pipeline.alongside import Alongside  # for gates alone
    from quantkit.quality.checks.numbers import read_ahead
    from quantkit.source.once import Once

    looks = [partial(read_ahead, *_compared(prepared, plan, output)) for plan in plans if output.verify]
    once = Once(output.memory.room)
    beside = Alongside(once, looks, passes=any(plan.way == "blocks" for plan in plans))
    if gating is not None:
        gating.run_with(beside)
    with once.over(prepared.checkpoint.files()):
        try:
            yield beside
        finally:
            once.expect(None)
            beside.close()

"""What a conversion knows of a model's inputs: text that is run through it, or statistics of an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.samples import DataRecord, Samples, beside, widened, widening
from quantkit.calibration.text.spec import (
    FISHER_TOKENS,
    IMPORTANCE_TOKENS,
    prepare_samples,
    shipped_beside,
    shipped_samples,
)
from quantkit.errors import InputError, UsageError
from quantkit.events import Sink
from quantkit.families.model import Model
from quantkit.formats.gguf.imatrix import Imatrix
from quantkit.machine import memory_limit_bytes
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import require_runnable
from quantkit.storage import Scratch, hash_file
from quantkit.untrusted import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from quantkit.calibration.statistics.sums import Statistics
    from quantkit.calibration.walk.block import Block
    from quantkit.calibration.walk.fisher import Downstream
    from quantkit.calibration.walk.model import BlockModel
    from quantkit.calibration.walk.walk import BlockView

    See = Callable[[int, Block], Mapping[str, Any]]
    Rows = Callable[[NDArray[np.int64]], Tensor]

JUDGED_TOKENS, LEAST_JUDGED = 1 << 12, 1 << 10  # that what was fitted to other text is judged by
LEARNED_TOKENS = 3 << 14  # that inputs are learned from where only what types cost is asked: more change little


@record
class Going:
    """How a walk goes: up to the `last` block, None for the head; with text `widened` by other text, for what is
    rounded with feedback and records nothing else of its inputs; with other rows of the `embedding` than the model's,
    asked for by their ascending numbers."""

    last: int | None = None
    widened: bool = False
    embedding: Rows | None = None


PLAINLY = Going()


class Inputs(Protocol):
    """What is known of a model's inputs. `digest` stands for everything that decides what is made of them."""

    @property
    def spec(self) -> CalibrationSpec: ...
    @property
    def digest(self) -> str: ...
    @property
    def records(self) -> tuple[DataRecord, ...]: ...

    def facts(self, widened: bool = False) -> dict[str, Any]:
        """The manifest's word on them: where from, how many tokens, hashes, what text was `widened` by; never the
        text."""
        ...

    def importance(self, checkpoint: Checkpoint, model: Model, emit: Sink) -> Imatrix:
        """Mean squares of what each matrix of the model reads."""
        ...

    def walk(self, model: BlockModel, see: See, emit: Sink, going: Going = PLAINLY) -> None:
        """Let `see` look at every block, and replace its weights."""
        ...

    def downstream(self, model: BlockModel, emit: Sink) -> Downstream | None:
        """What errors of the embedding cost; None where that is not known."""
        ...

    @property
    def shipped(self) -> Samples | None:
        """Windows of the shipped text to widen text by."""
        ...

    def unseen(self, checkpoint: Checkpoint) -> Samples | None:
        """Text of the same data that is not among the samples; None without any."""
        ...

    def elsewhere(self, checkpoint: Checkpoint) -> Samples | None:
        """Text of other kinds, which nothing was calibrated with; None where there is none."""
        ...

    def part(self, tokens: int) -> Inputs:
        """The first samples, about so many tokens; statistics as they are."""
        ...

    def halves(self) -> tuple[Samples, Samples] | None:
        """Text to learn inputs from, and other text to see what errors cost; None where there is no text any more."""
        ...

    def apart(self) -> tuple[Samples, Samples, bool] | None:
        """Text to fit to, text to judge by, and whether no document is in both; None where there is too little."""
        ...


@record
class Text:
    """Text to be run, as tokens, and how to run it. `shipped` are windows of the text that ships with quantkit, to
    widen other text by. `read` fills with what runs for something else have shown of a model's inputs, by the digest of
    the samples: parts of the text share it."""

    spec: CalibrationSpec
    samples: Samples
    shipped: Samples | None = None
    read: dict[str, Statistics] = field(default_factory=dict, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """Stands for everything that decides what the model computes: tokens, and the kind of device."""
        behind = "" if self.shipped is None else f":{self.shipped.record.digest}"
        return f"{self.samples.record.digest}{behind}:{self.spec.device.partition(':')[0]}"

    @property
    def records(self) -> tuple[DataRecord, ...]:
        return (self.samples.record,)

    def facts(self, widened: bool = False) -> dict[str, Any]:
        facts = asdict(self.samples.record)
        if widened:
            random, others = widening(len(self.samples.tokens), self.shipped)
            facts |= {"random_windows": random, "shipped_windows": others}
            if self.shipped is not None:
                facts["shipped_sha256"] = self.shipped.record.sha256
        return facts

    def walk(self, model: BlockModel, see: See, emit: Sink, going: Going = PLAINLY) -> None:
        """Run the samples: through what `see` has put in the place of earlier blocks."""
        from quantkit.calibration.walk.model import token_rows
        from quantkit.calibration.walk.walk import How, walk_blocks

        samples = widened(self.samples, model.rows, self.shipped) if going.widened else self.samples
        table = None if going.embedding is None else going.embedding(token_rows(samples))
        walk_blocks(model, samples, see, emit, how=How(embedding=table, last=going.last))

    def downstream(self, model: BlockModel, emit: Sink) -> Downstream | None:
        """Run some of the samples forward and backward, and keep what matrices read of the first ones (`read`)."""
        from quantkit.calibration.walk.fisher import downstream

        first = self.part(IMPORTANCE_TOKENS).samples
        found = downstream(model, self.samples, emit, first=first)
        if found.read is not None:
            self.read[first.record.digest] = found.read
        return found

    def unseen(self, checkpoint: Checkpoint) -> Samples | None:
        """The windows that would be chosen next, about as many as gradients are taken of."""
        count, seqlen = self.samples.tokens.shape
        spec = replace(self.spec, samples=count + max(1, FISHER_TOKENS // seqlen))
        found, chosen = prepare_samples(checkpoint, spec), set(self.samples.record.ids)
        others = [number for number, id_ in enumerate(found.record.ids) if id_ not in chosen]
        return found.chosen(others) if others else None

    def elsewhere(self, checkpoint: Checkpoint) -> Samples | None:
        """Windows of the shipped text that share no document with those that widen this one."""
        return shipped_beside(checkpoint, self.spec, self.shipped)

    def part(self, tokens: int) -> Text:
        """The first samples."""
        return replace(self, samples=self.samples.cut(0, max(1, tokens // self.samples.tokens.shape[1])))

    def halves(self) -> tuple[Samples, Samples]:
        """The later samples and the first ones, those of gradients; a single sample is both."""
        count, seqlen = self.samples.tokens.shape
        first = min(max(1, FISHER_TOKENS // seqlen), max(1, count // 2))
        rest = range(first, min(count, first + max(1, LEARNED_TOKENS // seqlen))) or range(count)
        return self.samples.cut(rest.start, rest.stop), self.samples.cut(0, first)

    def apart(self) -> tuple[Samples, Samples, bool] | None:
        """A quarter of the samples, at most JUDGED_TOKENS, are to judge by; with those to fit to goes the shipped text
        that widens others. None where the quarter is less than two samples."""
        count, seqlen = self.samples.tokens.shape
        last = min(count // 4, JUDGED_TOKENS // seqlen)
        if last < 2 or last * seqlen < LEAST_JUDGED:
            return None
        learned, judged, others = self.samples.apart(last)
        return (learned if self.shipped is None else beside(learned, self.shipped.tokens)), judged, others

    def importance(self, checkpoint: Checkpoint, model: Model, emit: Sink) -> Imatrix:
        """Run the text through the model, if no other run has, and sum up squares, as llama-imatrix does."""
        from quantkit.calibration.imatrix import to_imatrix
        from quantkit.calibration.statistics.sums import merge
        from quantkit.calibration.walk.settings import fingerprint
        from quantkit.calibration.walk.walk import walk_blocks

        known = self.read.get(self.samples.record.digest)
        if known is not None and known.model == fingerprint(checkpoint):
            return to_imatrix(known, model, ", ".join(self.spec.data))
        model_blocks = open_calibration_model(checkpoint, self.spec, scratch_for(self.spec, Path()))
        found: list[Statistics] = []

        def visit(index: int, block: BlockView) -> Mapping[str, Any]:
            found.append(block.statistics(final=True))
            return {}

        walk_blocks(model_blocks, self.samples, visit, emit)
        return to_imatrix(merge(found), model, ", ".join(self.spec.data))


@record
class Known:
    """A file of statistics that `quantkit calibrate` wrote; the text is not needed any more."""

    spec: CalibrationSpec
    path: Path

    @cached_property
    def digest(self) -> str:
        return hash_file(self.path)

    @cached_property
    def records(self) -> tuple[DataRecord, ...]:
        from quantkit.calibration.statistics.file import open_statistics

        file = open_statistics(self.path)
        file.close()
        return tuple(file.facts.data.values())

    def require_same_model(self, checkpoint: Checkpoint) -> None:
        """Raise InputError unless the statistics are of this very model: shapes alone do not tell."""
        from quantkit.calibration.statistics.file import open_statistics
        from quantkit.calibration.walk.settings import fingerprint

        file = open_statistics(self.path)
        file.close()
        if file.facts.model != fingerprint(checkpoint):
            message = f"{shown(self.path)} holds statistics of another model than {shown(checkpoint.name)}"
            hint = f"quantkit calibrate {shown(checkpoint.name)} --data FILE -o {shown(self.path)}, or give text"
            raise InputError(message, path=str(self.path), key="calib", hint=hint)

    def downstream(self, model: BlockModel, emit: Sink) -> Downstream | None:
        """A file of statistics holds no gradients."""
        return None

    @property
    def shipped(self) -> None:
        """A file of statistics is not widened."""
        return

    def unseen(self, checkpoint: Checkpoint) -> None:
        """A file of statistics holds no text."""
        return

    def elsewhere(self, checkpoint: Checkpoint) -> None:
        """What it would be other than is not known, either."""
        return

    def part(self, tokens: int) -> Known:
        """A file of statistics is one whole."""
        return self

    def halves(self) -> None:
        """It holds none of what it was made of, either."""
        return

    def apart(self) -> None:
        """Nor any to fit to."""
        return

    def walk(self, model: BlockModel, see: See, emit: Sink, going: Going = PLAINLY) -> None:
        """Take statistics from the file: nothing is run, and nobody is told how far a block is."""
        from quantkit.calibration.statistics.file import open_statistics
        from quantkit.calibration.walk.known import walk_known

        with closing(open_statistics(self.path)) as file:
            walk_known(model, file, see, going.last)

    def facts(self, widened: bool = False) -> dict[str, Any]:
        data = [asdict(record) for record in self.records]
        return {"statistics": {"name": self.path.name, "sha256": self.digest}, "data": data}

    def importance(self, checkpoint: Checkpoint, model: Model, emit: Sink) -> Imatrix:
        from quantkit.calibration.imatrix import to_imatrix
        from quantkit.calibration.statistics.file import open_statistics

        file = open_statistics(self.path)
        try:
            return to_imatrix(file.read(gram=False), model, self.path.name)
        finally:
            file.close()


def open_inputs(checkpoint: Checkpoint, spec: CalibrationSpec, emit: Sink) -> Inputs:
    """The samples that `spec` means for this checkpoint, or the one file of statistics that it names.

    Raises UsageError for statistics beside text, InputError for a damaged file, and what `prepare_samples` raises.
    """
    if not spec.reads_statistics:
        samples = prepare_samples(checkpoint, spec, emit)
        return Text(spec, samples, shipped_samples(checkpoint, spec, len(samples.tokens)))
    if len(spec.data) > 1:
        raise UsageError("statistics and text together", hint="give one file of statistics, or text", key="calib")
    spec.check()
    found = Known(spec, Path(spec.data[0]))
    require_runnable(checkpoint)
    found.require_same_model(checkpoint)  # the header is read, and checked, before any work
    return found


def open_calibration_model(checkpoint: Checkpoint, spec: CalibrationSpec, scratch: Scratch | None = None) -> BlockModel:
    """The checkpoint's blocks on the device of `spec`, ready for `walk_blocks`; reads no weights.

    `scratch` is the place of activations, memory by default. Raises what `open_model` raises.
    """
    from quantkit.calibration.walk.model import open_model

    spec.check()
    model = open_model(checkpoint, device=spec.device, threads=spec.threads)
    return replace(model, scratch=scratch.new, settle=scratch.settle) if scratch else model


ACTIVATIONS_SHARE = 0.25  # of the memory this process may use; beyond it `auto` puts them on the disk


def scratch_for(spec: CalibrationSpec, folder: Path) -> Scratch:
    """The place of activations: memory, or nameless files in `folder`, as `spec.activations` says."""
    limit = memory_limit_bytes()
    if spec.activations == "memory":
        return Scratch(limit)
    return Scratch(0 if spec.activations == "disk" else round(ACTIVATIONS_SHARE * limit), folder)

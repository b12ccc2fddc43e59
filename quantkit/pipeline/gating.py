"""Gates of convert: a finished artifact is measured before it gets its name, and gets none when a gate fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from quantkit.calibration.text.data import require_readable
from quantkit.calibration.text.samples import DataRecord
from quantkit.errors import GateError, UsageError
from quantkit.evaluation.artifacts import EMBEDDING, served_rounding, served_side
from quantkit.evaluation.corpus import Corpus, cutting, read_corpus
from quantkit.evaluation.figures import Report, summarize
from quantkit.evaluation.gates import Gate, Subject, Verdict, judge, parse_gates, require_judgeable, require_measured
from quantkit.evaluation.memory import Memory
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, StageFinished
from quantkit.filenames import WEIGHTS
from quantkit.pipeline.alongside import Alongside
from quantkit.pipeline.output import GATES
from quantkit.pipeline.outputs import Artifact
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.standing import record_checks
from quantkit.plan.base import Plan
from quantkit.quality.checks.base import Check, Verification
from quantkit.quality.decoded import open_decoded
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.dequantized import dequantized
from quantkit.source.folder import open_finished
from quantkit.untrusted import shown

KEPT = "what was made is kept, unpublished, and the same command with other gates goes on with it"


class Asked(Protocol):
    """What of a run's options gates need."""

    @property
    def eval_data(self) -> tuple[str, ...]: ...

    @property
    def threads(self) -> int | None: ...

    @property
    def memory(self) -> Memory | None: ...


@record
class Judged:
    """An artifact under the name that it is told by: its figures, and what became of the gates."""

    name: str
    nbytes: int
    report: Report
    verdicts: tuple[Verdict, ...]
    corpus: Corpus

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": self.nbytes,
            "gates": [verdict.as_json() for verdict in self.verdicts],
            "data": self.corpus.as_json(),
            "kl": self.report.kl.as_json(),
        }


class Gating:
    """The gates of a run, and the text that they are judged on, which is read at once."""

    def __init__(self, prepared: Prepared, gates: tuple[Gate, ...], asked: Asked, offline: bool) -> None:
        self.prepared = prepared
        self.gates = gates
        self.threads, self.memory = asked.threads, asked.memory
        self.corpus: Corpus = read_corpus(
            prepared.checkpoint, asked.eval_data, cutting(prepared.checkpoint, None), offline=offline
        )
        moved = [plan.recipe for plan in prepared.plans if _moves(plan)]
        require_judgeable(gates, self.corpus, moved)
        for text in _run(prepared):
            if self.corpus.hashes & {text.sha256, *text.parts}:
                raise _seen(text.name)

    def standing(self, artifact: Artifact, plan: Plan, emit: Sink) -> Artifact:
        """An artifact that is there already, judged. Raises GateError; the files stay where they are."""
        return record_checks(artifact, Verification((self.judged(plan, artifact.paths, artifact.path, emit),)))

    def judged(self, plan: Plan, paths: Sequence[Path], target: Path, emit: Sink) -> Check:
        """Measure the finished files of a plan, of which `target` is or will be the first; what the manifest says of
        it.

        Raises GateError for a gate that does not hold.
        """
        found = self.measured(plan, paths, target, emit)
        emit(StageFinished("gates", 0.0, "; ".join(v.words for v in found.verdicts)))
        failed = [v.words for v in found.verdicts if not v.ok]
        if failed:
            hint = f"more bits, or --calib; {KEPT}"
            what = f"{shown(found.name)}: {'; '.join(failed)}"
            raise GateError(
                what, path=str(target.parent if plan.is_checkpoint else target), hint=hint, judged=found.as_json()
            )
        return Check(GATES, True, "; ".join(v.words for v in found.verdicts), found.as_json())

    def measured(self, plan: Plan, paths: Sequence[Path], target: Path, emit: Sink) -> Judged:
        """The figures of the finished files of a plan, and what becomes of the gates."""
        from quantkit.evaluation.measure import measure  # torch: where a gate asks

        source = self.prepared.checkpoint
        named = {file.name: path for file, path in zip(plan.files, paths, strict=True)}
        with closing(self._opened(plan, named)) as made:
            side = self._side(plan, made, target)
            [scores] = measure(self._original_of(plan), [side], self.corpus, threads=self.threads, emit=emit)
        report = summarize(scores, self.corpus)
        nbytes = sum(path.stat().st_size for name, path in named.items() if name.endswith(WEIGHTS))
        subject = Subject(nbytes, sum(f.nbytes for f in source.files() if f.weights), report, scores, self.corpus)
        return Judged(side.name, nbytes, report, tuple(judge(self.gates, subject)), self.corpus)

    def run_with(self, beside: Alongside) -> None:
        """Have the original run beside the filling of files, unless its run is known."""
        original = self._original()
        if original.memory is not None and not original.memory.whole:
            beside.run(original, self.corpus, self.threads)

    def _original(self) -> Side:
        """As eval runs it."""
        source = self.prepared.checkpoint
        memory = self.memory and self.memory.about(f"{self.prepared.origin.stat} {self.corpus.token_sha256}")
        return Side(source.name, source, served_rounding(source), memory=memory)

    def _original_of(self, plan: Plan) -> Side:
        """The same, with the weights that a plan has really rounded where its columns were evened."""
        if not self.prepared.evened_facts(plan):
            return self._original()
        read = self.prepared.reading(plan).checkpoint
        return Side(read.name, read)

    def _opened(self, plan: Plan, named: Mapping[str, Path]) -> Checkpoint:
        if plan.is_checkpoint:
            return dequantized(open_finished(named, plan.recipe))
        return open_decoded(list(named.values()), self.prepared.checkpoint, self.prepared.reference.model)

    def _side(self, plan: Plan, made: Checkpoint, target: Path) -> Side:
        if plan.is_checkpoint:
            return served_side(target.parent.resolve().name, made, _moves(plan))
        tensors = self.prepared.reference.model.tensors
        rows = next(t.shape[0] for t in tensors if t.name == EMBEDDING)
        return Side(target.name, made, vocabulary=rows)


def _moves(plan: Plan) -> bool:
    """Whether scales are moved between layers, so that weights differ on purpose."""
    return plan.method is not None and bool(plan.method.transform)


def require_gateable(gates: Sequence[str], data: Sequence[str], calib: Sequence[str]) -> tuple[Gate, ...]:
    """The gates, where convert can judge them. Raises UsageError before any work where it cannot."""
    parsed = tuple(parse_gates(gates))
    if data and not parsed:
        raise UsageError("--eval-data is text for gates", key="gate", hint="give --gate, or leave --eval-data out")
    if not parsed:
        return ()
    require_measured(parsed, text=bool(data), option="--eval-data")
    if not data:
        raise UsageError("gates of convert are judged on text", key="gate", hint="give --eval-data FILE")
    require_readable(data)
    seen = sorted({*data} & {*calib})
    if seen:
        raise _seen(seen[0])
    return parsed


def _run(prepared: Prepared) -> Iterator[DataRecord]:
    """The texts that are run to calibrate: the shipped one, too, where it widens them."""
    inputs = prepared.calibration
    if inputs is not None:
        yield from inputs.records
        if inputs.shipped is not None and any(plan.widened for plan in prepared.plans):
            yield inputs.shipped.record


def _seen(name: str) -> UsageError:
    what = f"--eval-data {shown(name)} is what --calib calibrates on: it would look better than it is"
    return UsageError(what, key="gate", hint="give other text with --eval-data")

"""Gates of convert: a finished file is measured before it gets its name, and gets none when a gate does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from quantkit.calibration.text.samples import DataRecord
from quantkit.errors import GateError, UsageError
from quantkit.evaluation.artifacts import EMBEDDING, served_rounding
from quantkit.evaluation.corpus import Corpus, Cutting, read_corpus
from quantkit.evaluation.figures import summarize
from quantkit.evaluation.gates import Gate, Subject, judge, parse_gates, require_judgeable, require_measured
from quantkit.evaluation.sides import Side
from quantkit.events import Sink, StageFinished
from quantkit.pipeline.outputs import Artifact
from quantkit.pipeline.prepare import Prepared
from quantkit.pipeline.standing import record_checks
from quantkit.quality.checks.base import Check, Verification
from quantkit.quality.decoded import open_decoded
from quantkit.recipes.recipe import Recipe
from quantkit.untrusted import shown

GATES = "gates"
KEPT = "what was made is kept beside OUT, unpublished, and the same command with other gates goes on with it"


class Asked(Protocol):
    """What of a run's options gates need."""

    @property
    def eval_data(self) -> tuple[str, ...]: ...

    @property
    def threads(self) -> int | None: ...


class Gating:
    """The gates of a run, and the text that they are judged on, which is read at once."""

    def __init__(self, prepared: Prepared, gates: tuple[Gate, ...], asked: Asked, offline: bool) -> None:
        self.prepared = prepared
        self.gates = gates
        self.threads = asked.threads
        self.corpus: Corpus = read_corpus(prepared.checkpoint, asked.eval_data, Cutting(), offline=offline)
        require_judgeable(gates, self.corpus)
        for record in _run(prepared):
            if record.sha256 in self.corpus.hashes:
                raise _seen(record.name)

    def standing(self, artifact: Artifact, paths: Sequence[Path], emit: Sink) -> Artifact:
        """An artifact that is there already, judged. Raises GateError; the files stay where they are."""
        return record_checks(artifact, Verification((self.judged(paths, paths[0], emit),)))

    def judged(self, paths: Sequence[Path], target: Path, emit: Sink) -> Check:
        """Measure the files of a GGUF artifact, which will be `target`; what is said of it in the manifest.

        Raises GateError for a gate that does not hold.
        """
        from quantkit.evaluation.measure import measure  # torch: where a gate asks

        source, model = self.prepared.checkpoint, self.prepared.reference.model
        rows = next(t.shape[0] for t in model.tensors if t.name == EMBEDDING)
        with closing(open_decoded(paths, source, model)) as decoded:
            side = Side(target.name, decoded, vocabulary=rows)
            original = Side(source.name, source, served_rounding(source))  # as eval runs it
            [scores] = measure(original, [side], self.corpus, threads=self.threads, emit=emit)
        report = summarize(scores, self.corpus)
        nbytes = sum(path.stat().st_size for path in paths)
        subject = Subject(nbytes, sum(f.nbytes for f in source.files() if f.weights), report, scores, self.corpus)
        verdicts = judge(self.gates, subject)
        emit(StageFinished("gates", 0.0, "; ".join(v.words for v in verdicts)))
        failed = [v.words for v in verdicts if not v.ok]
        if failed:
            hint = f"more bits, or --calib; {KEPT}"
            raise GateError(f"{shown(target.name)}: {'; '.join(failed)}", path=str(target), hint=hint)
        data = {"gates": [v.as_json() for v in verdicts], "data": self.corpus.as_json(), "kl": report.kl.as_json()}
        return Check(GATES, True, "; ".join(v.words for v in verdicts), data)


def require_gateable(
    gates: Sequence[str], data: Sequence[str], recipes: Sequence[Recipe], calib: Sequence[str]
) -> tuple[Gate, ...]:
    """The gates, where convert can judge them. Raises UsageError before any work where it cannot."""
    parsed = tuple(parse_gates(gates))
    if data and not parsed:
        raise UsageError("--eval-data is text for gates", key="gate", hint="give --gate, or leave --eval-data out")
    if not parsed:
        return ()
    if not data:
        require_measured(parsed, text=False, option="--eval-data")
        raise UsageError("gates of convert are judged on text", key="gate", hint="give --eval-data FILE")
    idle = [recipe.name for recipe in recipes if recipe.mixture is None]
    if idle:
        message = f"{', '.join(idle)}: convert gates GGUF files, this makes a checkpoint"
        raise UsageError(message, key="gate", hint="afterwards: quantkit eval OUT --against SRC --data D --gate ...")
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

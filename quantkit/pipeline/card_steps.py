"""How artifacts of a folder are run: commands for the programs that load them by the table of consumers, for whoever
has downloaded the folder and stands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantkit.pipeline.folder import Finished
from quantkit.pipeline.gives import output_of
from quantkit.pipeline.loaded_by import verdicts_of
from quantkit.pipeline.modelfile import with_modelfile
from quantkit.records import record
from quantkit.report.next_steps import (
    NextStep,
    adapter_steps,
    gguf_in_python,
    modelfile_step,
    next_steps,
    steps_with_encoder,
)

NEEDED = {"transformers": ("takes the packages gguf and accelerate",)}  # for GGUF files


@record
class Beside:
    """What goes with artifacts: the encoder beside them, the repository of their source, whose tokenizer some programs
    want, and Modelfiles by the GGUF files that they are for."""

    encoder: Path | None = None
    repo: str | None = None
    modelfiles: Mapping[str, str] | None = None


def steps_of(artifact: Finished, beside: Beside) -> tuple[NextStep, ...]:
    """The commands for what loads an artifact. An encoder is nothing to run by itself, an adapter is given to a program
    with its model."""
    outputs = [Path(f.name) for f in artifact.files] if artifact.gguf else [Path(artifact.label)]
    if artifact.encodes:
        return ()
    if artifact.adapts:
        return adapter_steps(outputs[0])
    verdicts = verdicts_of(artifact)
    loaders = None if verdicts is None else {each.consumer: each.caveats for each in verdicts if each.ok}
    gives = output_of(artifact.manifest.facts["model"])
    if not artifact.gguf:
        return next_steps(outputs, artifact.label, loaders, anywhere=True, gives=gives)
    if beside.encoder is not None:
        steps = steps_with_encoder(outputs, artifact.label, beside.encoder, anywhere=True)
    else:
        steps = next_steps(outputs, artifact.label, loaders, anywhere=True, gives=gives)
    if loaders is None:
        return _with_modelfiles(steps, artifact, beside)
    kept = [step for step in steps if step.program.replace("-", "") in loaders or step.program in loaders]
    plain = gives in ("text", "sights", "sounds") and beside.encoder is None and len(outputs) == 1
    more = gguf_in_python(outputs[0], beside.repo) if plain else ()
    kept += [
        NextStep("; ".join((step.program, *loaders[step.program], *NEEDED.get(step.program, ()))), step.command)
        for step in more
        if step.program in loaders
    ]
    return _with_modelfiles(kept, artifact, beside)


def _with_modelfiles(steps: Sequence[NextStep], artifact: Finished, beside: Beside) -> tuple[NextStep, ...]:
    """Ollama is given the Modelfile that is there, or will be, in the place of one that only names the file."""
    to_be = (beside.modelfiles or {}).get(artifact.first.name)
    if to_be is None:
        return with_modelfile(artifact.first, tuple(steps))
    given = modelfile_step(Path(to_be), artifact.label)
    return tuple(given if step.program == "ollama" else step for step in steps)

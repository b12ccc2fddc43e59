"""What the table of consumers makes of an artifact that is finished."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import cast

from quantkit.consumers import CONSUMERS, Module, Subject, Verdict, verdicts
from quantkit.errors import QuantkitError
from quantkit.families.known import drafts
from quantkit.families.linears import outline
from quantkit.formats.containers.base import WriteLayout
from quantkit.formats.gguf.file import read_gguf
from quantkit.pipeline.consumers import ENCODER_READERS
from quantkit.pipeline.folder import Finished
from quantkit.report.manifest import Manifest
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint


def verdicts_of(artifact: Finished) -> tuple[Verdict, ...] | None:
    """What every known consumer makes of an artifact, of the file of an encoder those that read such files; None where
    nobody can say."""
    try:
        subject = (
            _gguf_subject(artifact.first, artifact.manifest)
            if artifact.gguf
            else _subject(artifact.first.parent, artifact.manifest)
        )
    except QuantkitError:
        return None
    return verdicts(subject, ENCODER_READERS if artifact.encodes else CONSUMERS)


def loaders_of(artifact: Finished) -> tuple[str, ...] | None:
    """The consumers that load an artifact; None where nobody can say."""
    found = verdicts_of(artifact)
    return None if found is None else tuple(verdict.consumer for verdict in found if verdict.ok)


def _gguf_subject(first: Path, manifest: Manifest) -> Subject:
    found = {kv.key: kv.value for kv in read_gguf(first).metadata}
    return Subject(
        "gguf",
        architecture=str(found.get("general.architecture", "")),
        file_types=tuple(sorted({tensor.qtype for tensor in manifest.tensors})),
        files=len(manifest.artifact),
    )


def _subject(folder: Path, manifest: Manifest) -> Subject:
    with closing(open_source(str(folder))) as made:
        model = outline(made.tensors(), made.config, served=False)  # it is made: of any family
        stored = made.modules if isinstance(made, QuantizedCheckpoint) else {}
        modules = []
        for linear in model.tensors:
            module = stored.get(f"{linear.name}.weight")
            layout = None if module is None else cast(WriteLayout, module.layout)  # the same class writes
            modules.append(Module(linear.name, linear.role, linear.rows, linear.cols, layout))
        return Subject(
            container=str(manifest.facts["model"].get("container", "plain")),
            modules=tuple(modules),
            architecture=model.architecture,
            model_type=str(made.config.get("model_type") or ""),
            drafts=drafts(model.family),
            head_quantized=model.head is not None and f"{model.head}.weight" in stored,
            kv_cache=any(t.name.endswith(".k_scale") for t in manifest.tensors),
            heads=model.shape.heads,
            kv_heads=model.shape.kv_heads,
            files=len({tensor.file for tensor in manifest.tensors}),
        )

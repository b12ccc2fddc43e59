"""Who makes use of artifacts that were just made: consumers, and of an encoder the language models beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantkit.events import Sink, Warned
from quantkit.pipeline.consumers import loaders
from quantkit.pipeline.outputs import Artifact
from quantkit.plan.base import Plan


def with_users(
    built: Sequence[Artifact], plans: Sequence[Plan], tp: int, *, laid_out: bool = False
) -> tuple[Artifact, ...]:
    """Artifacts with who loads them, and language models with the encoder that goes with them. `laid_out`: they lie in
    folders as LM Studio wants them."""
    made = tuple(zip(built, plans, strict=True))
    encoder = next((artifact.path for artifact, plan in made if plan.is_encoder), None)
    alone = {plan.digest for plan in plans if plan.is_encoder or plan.is_checkpoint}
    return tuple(
        replace(
            artifact,
            loaders=loaders(plan, tp),
            tp=tp,
            encoder=None if plan.digest in alone else encoder,
            laid_out=laid_out,
        )
        for artifact, plan in made
    )


def warn_of_no_loader(built: Sequence[Artifact], plans: Sequence[Plan], emit: Sink) -> None:
    """Say of checkpoints for servers that no known consumer loads them, where that is so."""
    for artifact, plan in zip(built, plans, strict=True):
        if plan.is_checkpoint and plan.rounded and not artifact.loaders:
            what = f"{plan.recipe}: none of the engines that are known here loads it, quantkit plan says why"
            emit(Warned("no-loader", what))

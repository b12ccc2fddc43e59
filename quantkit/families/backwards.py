"""Families whose files are not turned back into checkpoints, although their rows could be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import Hparams


def not_read(why: str) -> Callable[[Hparams], Mapping[str, Any]]:
    """What refuses the file of such a family, as its `graph`."""

    def refuse(hparams: Hparams) -> Mapping[str, Any]:
        hint = "start from the checkpoint that the file was made of"
        raise UnsupportedError(f"files of this family are not read backwards: {why}", key="architecture", hint=hint)

    return refuse

"""Matrices that lie (in, out) in files, as GPT-2's, as linears like any other."""

from __future__ import annotations

import torch
from torch import nn

from quantkit.calibration.walk.weights import Held, locate
from quantkit.families.model import Rows


class Turned(nn.Linear):
    """A linear whose matrix is (out, in) in memory and (in, out) in files."""


def turn(block: nn.Module) -> None:
    """Put linears in the place of the modules of `block` (on the meta device) that multiply by (in, out)."""
    from transformers.pytorch_utils import Conv1D

    for path, module in list(block.named_modules()):
        if isinstance(module, Conv1D):
            parent, _, name = path.rpartition(".")
            with torch.device("meta"):
                setattr(block.get_submodule(parent), name, Turned(module.nx, module.nf))


def locate_in(block: nn.Module, prefix: str, name: str, held: Held) -> Rows:
    """The source rows of the parameter `name` of a block, which is called prefix + name in the whole model.

    Raises what `locate` raises.
    """
    path, _, attribute = name.rpartition(".")
    shape = block.get_parameter(name).shape
    if attribute != "weight" or not isinstance(block.get_submodule(path), Turned):
        return locate(prefix + name, shape, held)
    rows, cols = shape
    found = locate(prefix + name, torch.Size((cols, rows)), held)
    return Rows(found.tensor, found.start, found.stop, range(rows))

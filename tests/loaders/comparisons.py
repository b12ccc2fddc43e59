"""When a loader agrees with quantkit on an artifact. Every tolerance is that of the loader's arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch
from expected import expected_model, quantization
from loaders import Loaded, Run, computes_in_float32, run
from torch import Tensor

# bitsandbytes decodes LLM.int8() as code * absmax * (1/127), quantkit as code * (absmax / 127): both round twice.
TWO_ROUNDINGS = 2.0**-22

# The same operations on the same numbers in the same order; a library may still add up in another order.
FLOAT32 = 1e-5


def require_same_weights(loaded: dict[str, Tensor], decoded: dict[str, Tensor], folder: Path) -> None:
    """Every weight that the loader decoded is quantkit's, bit for bit in the loader's dtype.

    Scales are no zeros, so that equal weights mean equal codes.
    """
    exact = not quantization(folder).get("load_in_8bit", False)
    wrong = [name for name, weight in loaded.items() if not same(weight, decoded[name], exact=exact)]
    assert loaded, "no weight was decoded"
    assert not wrong, f"{len(wrong)} of {len(loaded)} weights differ, the first is {wrong[0]}"


def same(weight: Tensor, decoded: Tensor, *, exact: bool) -> bool:
    """Whether a weight is `decoded` in its own dtype; without `exact` up to the rounding of LLM.int8()."""
    if exact:
        return torch.equal(weight, decoded.to(weight.dtype))
    return torch.allclose(weight, decoded, rtol=TWO_ROUNDINGS, atol=0)


def distance(logits: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to how much logits differ from token to token."""
    spread = expected - expected.mean(dim=-1, keepdim=True)
    return float((logits - expected).square().mean().sqrt() / spread.square().mean().sqrt())


def tolerance(folder: Path, decoded: dict[str, Tensor], expected: Run) -> float:
    """How far logits may be from those in float32.

    Kernels in bfloat16 round where they like. Running the plain model in bfloat16 shows how much that amounts to.
    """
    if computes_in_float32(folder):
        return FLOAT32
    noise = run(expected_model(folder, decoded, torch.bfloat16), folder).logits
    return 2 * distance(noise, expected.logits)


def require_same_logits(loaded: Loaded, decoded: dict[str, Tensor], folder: Path) -> None:
    """The loader's logits are those of the plain model on quantkit's weights."""
    expected = run(expected_model(folder, decoded), folder)
    allowed = tolerance(folder, decoded, expected)
    found = distance(loaded.run.logits, expected.logits)
    assert found <= allowed, f"logits are {found:.2g} off, {allowed:.2g} is allowed"


def require_same_text(loaded: Loaded, decoded: dict[str, Tensor], folder: Path) -> None:
    """Each token that the loader's model wrote is the best one, or as good as its arithmetic can tell."""
    model = expected_model(folder, decoded)
    prompt, written = loaded.run.prompt, loaded.run.written
    with torch.inference_mode():
        logits = model(torch.cat([prompt, written])[None]).logits[0]
    before_each = logits[prompt.numel() - 1 : -1]
    regret = float((before_each.amax(dim=1) - before_each.gather(1, written[:, None])[:, 0]).max())
    # Of two logits each may be off by what is allowed as root mean square, and single ones by a few times as much.
    doubt = 2 * 4 * tolerance(folder, decoded, run(model, folder)) * float(logits.std())
    assert regret <= doubt, f"a token is {regret:.2g} worse than the best, {doubt:.2g} is allowed"

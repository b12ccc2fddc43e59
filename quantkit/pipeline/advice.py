"""What `recommend` goes by: workloads, cost drivers, conditions and ladders, as tables with where each comes from.

A rung is the bits of the recipes on it; the ladder goes up from the rung to start at whenever a gate fails. Rules are
what is said before anything was measured: a measurement of the model itself takes precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from quantkit.records import record

BENCHMARKS = "docs/benchmarks.md"
LLAMA_CPP = "llama.cpp tools/perplexity/README.md, Llama-3-8B"
QUANTCALL = "QuantCall, BFCL v4 with paired bootstrap"
LONG_CONTEXT = "arXiv 2505.20276"
FACTS = "Through a Compressed Lens, TrustNLP 2026; arXiv 2605.19645"

RUNGS = (4, 5, 6, 8)
ORIGINAL = 16


@record
class Workload:
    """Which rung to start at, the lowest that is still worth a try where memory forces it, and the gate to pass."""

    start: int
    least: int
    gate: str
    why: str
    source: str


WORKLOADS: dict[str, Workload] = {
    "chat": Workload(
        4, 4, "assistant",
        "4 bits keep conversation: KL 0.028 nats and 92 % of the first tokens, 3 bits lose three times as much",
        LLAMA_CPP,
    ),
    "code": Workload(
        5, 4, "assistant",
        "code and calls of tools break on one wrong token: small models lose arguments at 4 bits and not at 5",
        QUANTCALL,
    ),
    "math": Workload(
        8, 6, "high-stakes",
        "a long derivation is only as good as its worst step: 8 bits change 2 % of the first tokens, 4 bits 8 %",
        LLAMA_CPP,
    ),
    "summarize": Workload(
        4, 4, "assistant",
        "the answer stands in the prompt, so that little hangs on rare knowledge: 4 bits do as for chat",
        LLAMA_CPP,
    ),
    "high-stakes": Workload(
        8, 8, "high-stakes",
        "rare facts go first when bits do, and nobody notices: 8 bits are next to the original, fewer are not",
        FACTS,
    ),
    "edge": Workload(
        4, 3, "brainstorm",
        "memory and energy count most: 4 bits, and 3 with calibration, which lose less than 4 bits without",
        f"{BENCHMARKS}, feedback inside K-quant blocks",
    ),
}  # fmt: skip


@record
class Driver:
    """What costs most. `lower` rungs further down than the workload says, to walk up from; `serves` checkpoints for
    servers instead of GGUF files; `least` bits to start at; `calib`: whether calibration is worth its time."""

    why: str
    source: str
    lower: int = 0
    serves: bool = False
    least: int = 0
    calib: bool = True


DRIVERS: dict[str, Driver] = {
    "memory": Driver(
        "of files of the same size the calibrated one loses a fifth to a half",
        f"{BENCHMARKS}, feedback inside K-quant blocks and a real model",
    ),
    "latency": Driver(
        "a single answer reads every weight for every token, so that fewer bytes are a faster answer",
        "roofline of one token at a time: bytes of weights over memory bandwidth",
    ),
    "throughput": Driver(
        "large batches are bound by arithmetic, which 8-bit weights with 8-bit inputs halve and 4-bit weights do not",
        "docs/consumers.md; vLLM documentation, FP8 W8A8 and INT8 W8A8",
        serves=True, least=8,
    ),
    "cost": Driver(
        "start a rung lower and without calibration, let the gate decide, and pay for more bits only where it fails",
        "quantkit tune: a failed step costs a conversion, not a device",
        lower=1, calib=False,
    ),
}  # fmt: skip


@record
class Facts:
    """What conditions ask. `weights` counts those of the model, `fits` says whether the original does."""

    workload: str
    weights: int
    context: int
    fits: bool
    quantized: bool


Effect = Literal["keep", "higher", "eight"]  # do not quantize; start a rung higher; start at eight bits


@record
class Condition:
    """A rule that looks at the model or the task; the first that keeps the original ends the matter, unless it is
    `open` to a recipe that was measured to pass."""

    name: str
    holds: Callable[[Facts], bool]
    effect: Effect
    why: str
    source: str
    open: bool = False


TINY, SMALL = 250_000_000, 2_000_000_000  # weights
LONG = 65_536  # tokens

CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "already quantized", lambda f: f.quantized, "keep",
        "the source is quantized already: rounding it again loses twice; start from the unquantized checkpoint",
        "docs/recipes.md, --allow-requantize",
    ),
    Condition(
        "high stakes", lambda f: f.workload == "high-stakes" and f.fits, "keep",
        "the original fits, and no saving is worth a wrong answer here",
        FACTS,
    ),
    Condition(
        "tiny", lambda f: f.weights < TINY and f.fits, "keep",
        "the model is tiny: there is little to save, and it loses most (135 M weights: KL 0.011 to 0.048 at 4 bits)",
        f"{BENCHMARKS}, a real model",
        open=True,
    ),
    Condition(
        "small", lambda f: f.weights < SMALL and f.workload != "edge", "higher",
        "models below 2 B weights lose more per bit than large ones: a rung higher",
        f"{QUANTCALL}; arXiv 2605.19645",
    ),
    Condition(
        "long context", lambda f: f.context >= LONG and f.workload != "edge", "eight",
        "beyond 64k tokens 4 bits lose up to 59 % where 8 bits lose 0.8 %: start at 8, and measure at this length",
        LONG_CONTEXT,
    ),
)  # fmt: skip

KV_WHY = "q8_0 halves the cache and costs a reasoning benchmark 0.2 points, q4_0 costs 2.8"
KV_SOURCE = "llama.cpp PR 21038; Qwen3-4B, MMLU-Pro 66.5, 66.3 and 63.7"
KV_SHARE = 0.2  # of what is needed: a cache beyond it is worth a word

# Recipes for models that were trained to be stored so: for others they are no choice, whatever fits.
SPECIAL = frozenset({"q1_0", "q2_0", "tq1_0", "tq2_0", "mxfp4_moe"})

# The recipes of every rung, the first that can be planned counts; below the ladder nothing is recommended but named.
GGUF_LADDER: dict[int, tuple[str, ...]] = {
    3: ("q3_k_m",), 4: ("q4_k_m",), 5: ("q5_k_m",), 6: ("q6_k",), 8: ("q8_0",),
}  # fmt: skip
SERVER_LADDER: dict[int, tuple[str, ...]] = {
    4: ("w4a16", "gptq-w4g128", "awq-w4g128", "mlx-4bit", "nf4"),
    8: ("fp8", "w8a8", "w8a16", "gptq-w8g128", "mlx-8bit"),
}  # fmt: skip
OF_GGUF = frozenset({"llama.cpp", "ollama", "lmstudio"})  # consumers whose own format GGUF is


def ladder_for(consumers: Sequence[str], servers: bool = False) -> dict[int, tuple[str, ...]]:
    """The recipes of every rung for who is to load them: of these consumers all, of none named llama.cpp.

    Others load GGUF files, too, some of them, and slowly: they get what they are made for, unless it is shared with
    one that loads nothing else.
    """
    return SERVER_LADDER if servers or (consumers and not OF_GGUF & {*consumers}) else GGUF_LADDER

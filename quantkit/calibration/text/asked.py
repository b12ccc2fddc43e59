"""What a calibration is asked for. Every request has room for it, so this imports none of what reads text."""

from __future__ import annotations

from quantkit.errors import UsageError, require_choice
from quantkit.records import record

# 128 windows of 512 tokens: the window that llama-imatrix cuts by default, so the same file gives both the same
# tokens, and twice the tokens that MIN_TOKENS asks for. Time and activations grow with the product; longer
# windows teach long contexts, and are worth their time only with documents that fill them.
SAMPLES, SEQLEN = 128, 512
DEVICES = ("cpu", "cuda")
ACTIVATIONS = ("auto", "memory", "disk")
STATISTICS = ".safetensors"  # the suffix of a file of them


@record
class CalibrationSpec:
    """The options of a calibration. `data` are files, "hf://" data sets or "default" (the shipped text), in order.

    `samples` windows of `seqlen` tokens (None: SEQLEN, or as many as the model has positions for) are run on `device`.
    `activations` says where they lie between blocks. What decides the result is `data`, `samples`, `seqlen` and the
    kind of device; the rest only how it is reached.
    """

    data: tuple[str, ...]
    samples: int = SAMPLES
    seqlen: int | None = None
    device: str = "cpu"
    threads: int | None = None
    activations: str = "auto"
    offline: bool = False

    @property
    def reads_statistics(self) -> bool:
        """Whether `data` names a file of what a model saw, instead of text."""
        return any(name.endswith(STATISTICS) for name in self.data)

    def check(self) -> None:
        """Raise UsageError for options that make no sense, UnsupportedError for data that nothing installed reads,
        before anything is opened."""
        if not self.data:
            raise UsageError(
                "no calibration data", key="data", hint="default, or a file of text, JSON Lines or parquet"
            )
        for name, value, least in (("samples", self.samples, 1), ("seqlen", self.seqlen, 2)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}", key=name, hint=f"{least} or more")
        for name, given, known in (("device", self.device, DEVICES), ("activations", self.activations, ACTIVATIONS)):
            require_choice(f"--{name}", given.partition(":")[0], known)
        from quantkit.calibration.text.data import require_readable  # for what is asked for text alone

        require_readable(self.data)

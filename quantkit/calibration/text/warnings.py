"""What can be said of calibration data before anything has run: warnings with stable codes."""

from __future__ import annotations

from collections.abc import Iterator

from quantkit.calibration.text.samples import DataRecord
from quantkit.units import counted

FEW_TOKENS = "QK-CAL-001"
REPEATED = "QK-CAL-002"
RAW_CHAT = "QK-CAL-005"
LENGTHS = "QK-CAL-006"
SKIPPED = "QK-CAL-011"

# 64 x 512: below it means of squares of rarely active channels are noise. llama.cpp's and GPTQ's users take
# 128 x 512 to 128 x 2048.
MIN_TOKENS = 32_768
MAX_REPEATED = 0.05  # share of windows or documents that equal another
SHORT_DOCUMENTS = 8  # a window holds this many documents of median length
LONG_SEQUENCE = 256  # documents of any kind are shorter than most windows below this


def data_warnings(record: DataRecord, *, context: int = 0) -> Iterator[tuple[str, str]]:
    """The (code, message) pairs for a record. `context` is the longest sequence the model takes, 0 where unknown."""
    name = record.name
    if record.tokens < MIN_TOKENS:
        yield (
            FEW_TOKENS,
            f"{name}: {counted(record.tokens, 'token', 'is', 'are')} few, {MIN_TOKENS:,} or more are advised",
        )
    if record.repeated > MAX_REPEATED * len(record.ids):
        yield REPEATED, f"{name}: {record.repeated:,} of {counted(len(record.ids), 'sample')} repeat an earlier one"
    elif record.repeated_documents > MAX_REPEATED * record.documents:
        many = f"{record.repeated_documents:,} of {record.documents:,}"
        yield REPEATED, f"{name}: {many} documents repeat an earlier one"
    if record.chat and not record.rendered:
        yield RAW_CHAT, f"{name} is plain text and the model is a chat model: conversations (messages) fit it better"
    if context and record.seqlen > context:
        yield LENGTHS, f"sequences of {counted(record.seqlen, 'token')}, the model takes at most {context:,}"
    elif record.seqlen >= LONG_SEQUENCE and record.median_tokens * SHORT_DOCUMENTS < record.seqlen:
        what = f"documents of about {counted(record.median_tokens, 'token')} in sequences of {record.seqlen:,}"
        yield LENGTHS, f"{name}: {what}: long contexts are not exercised"

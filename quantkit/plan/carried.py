"""What a checkpoint for servers takes over from its source as it is: tokenizer, templates, processors, licences."""

from __future__ import annotations

from collections.abc import Iterator

from quantkit.errors import InputError
from quantkit.families.model_card import CARD_FILE
from quantkit.formats.safetensors import INDEX
from quantkit.source import Checkpoint
from quantkit.untrusted import shown

CONFIG = "config.json"
REPLACED = frozenset({CONFIG, INDEX, "quantize_config.json", "quant_config.json", "hf_quant_config.json"})
OWN = (".manifest.json",)
MAX_CARRIED_BYTES = 1 << 30  # they are held in memory; the largest tokenizers have 40 MB
VOICES = "spk_dict.pt"  # a pickle
# Classes of transformers that stop without a file that is never carried.
WANTING = {"Qwen2_5OmniModel": VOICES, "Qwen2_5OmniForConditionalGeneration": VOICES}


def carried_names(checkpoint: Checkpoint) -> list[str]:
    """Names of the files that an artifact has to have from its source, those in folders as FOLDER/FILE: all but the
    model card, in whose place the artifact may have its own."""
    return [name for name in _taken_over(checkpoint) if name != CARD_FILE]


def _taken_over(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.carried() if name not in REPLACED and not name.endswith(OWN)]


def note_left_behind(architecture: str) -> Iterator[tuple[str, str]]:
    """A note on a file that the source may have, the artifact never has, and transformers asks for."""
    if name := WANTING.get(architecture):
        what = (
            f"{name} is a pickle, which is never read, and stays behind: transformers opens no {architecture} without"
        )
        yield "not-carried", f"{what}; copy it into the artifact's folder if you trust its source"


def carried_files(checkpoint: Checkpoint, *, card: bool = False) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files that are taken over; with a `card` of the artifact's own not that of the source.

    Raises InputError for more than fits in memory.
    """
    total = 0
    for name in carried_names(checkpoint) if card else _taken_over(checkpoint):
        data = checkpoint.read_file(name)
        assert data is not None, name
        total += len(data)
        if total > MAX_CARRIED_BYTES:
            what = f"the source has more than {MAX_CARRIED_BYTES:,} bytes besides weights, up to {shown(name)}"
            raise InputError(what, path=name, hint="remove from its folder what does not belong to the model")
        yield name, data

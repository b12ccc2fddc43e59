"""What the reference converter writes for tokenizers: its code, run over many folders in one process of its own.

Reads a JSON list of [folder, pre] from standard input and prints, as JSON, for each folder {"metadata": {key: [type,
value]}} or {"error": text}. `pre` stands in for a pre-tokenizer that the converter does not recognize: it knows only
published vocabularies. No weights are needed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from reference import REFERENCE

sys.path[:0] = [str(REFERENCE), str(REFERENCE / "gguf-py")]

import gguf  # noqa: E402
from conversion import ModelBase, TextModel, get_model_class  # noqa: E402

recognize = TextModel.get_vocab_base_pre


def entries(folder: Path, pre: str | None) -> dict[str, Any]:
    """Everything that the converter's `set_vocab` writes below `tokenizer.`."""

    def known(self: Any, tokenizer: Any) -> str:
        try:
            return str(recognize(self, tokenizer))
        except NotImplementedError:
            if pre is None:
                raise
            return pre

    TextModel.get_vocab_base_pre = known
    hparams = ModelBase.load_hparams(folder, is_mistral_format=False)
    converter = get_model_class(hparams["architectures"][0])(folder, gguf.LlamaFileType.ALL_F32, folder / "out.gguf")
    converter.set_vocab()
    [found] = converter.gguf_writer.kv_data
    return {key: typed(entry) for key, entry in found.items() if key.startswith("tokenizer.")}


def typed(entry: Any) -> list[Any]:
    if entry.type is not gguf.GGUFValueType.ARRAY:
        return [entry.type.name, entry.value]
    kind = gguf.GGUFValueType.get_type(entry.value[0]).name
    return [f"ARRAY {kind}", [item.decode() if isinstance(item, bytes) else item for item in entry.value]]


def answer(folder: str, pre: str | None) -> dict[str, Any]:
    try:
        return {"metadata": entries(Path(folder), pre)}
    except Exception as error:  # noqa: BLE001  (whatever the converter raises is its answer)
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [answer(folder, pre) for folder, pre in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)

"""A checkpoint as transformers loads and runs it, with the loader of its format: compressed-tensors, bitsandbytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import UnsupportedError, VerificationError
from quantkit.tensors import F32
from quantkit.untrusted import shown

TRANSFORMERS = "transformers"
EXACT = ("", "compressed-tensors")  # methods whose loaders compute in the dtype that they are asked for
FOUR_BIT_FLOATS = "fp4"  # compressed-tensors decodes these to bfloat16, whatever it is asked for


class Transformers:
    """A loaded checkpoint. `exact` says that it computes in float32, not in 16 bits as its loader prefers."""

    name = TRANSFORMERS

    def __init__(self, folder: Path, threads: int, quantization: Mapping[str, Any]) -> None:
        """Load a folder, of which nothing but safetensors and JSON is read. `quantization` is what its config.json says
        of it, {} for plain floats.

        Raises UnsupportedError for a format whose loader is not installed, or does not run here, VerificationError for
        a checkpoint that transformers rejects.
        """
        import torch
        import transformers

        method, form = str(quantization.get("quant_method", "")), str(quantization.get("format", ""))
        self.exact = method in EXACT and FOUR_BIT_FLOATS not in form
        self.version, self.path, self.threads = str(transformers.__version__), folder, threads
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        options: dict[str, Any] = {"dtype": torch.float32 if self.exact else "auto"}
        place = {"local_files_only": True, "trust_remote_code": False}
        try:
            kind = _opens(transformers.AutoConfig.from_pretrained(os.fspath(folder), **place))
            self._paired = kind is transformers.AutoModelForSeq2SeqLM
            self._model = kind.from_pretrained(os.fspath(folder), use_safetensors=True, **place, **options).eval()
        except ImportError as error:
            what = f"transformers does not load {shown(folder.name)} without another package: {_words(error)}"
            raise UnsupportedError(what, hint="install the package that it names", key=method or None) from error
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
            what = f"transformers does not load {shown(folder.name)}: {type(error).__name__}: {_words(error)}"
            hint = "quantkit doctor shows the versions; quantkit plan --for transformers says what it loads"
            raise VerificationError(what, path=str(folder), hint=hint) from error
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> Iterator[F32]:
        """Logits of what follows the tokens at `places`: float32 (n, vocabulary), in one piece. An encoder
        reads what is before the first of the places."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                ids, begin = torch.tensor([list(tokens)]), places[0] if self._paired else 0
                given = (
                    {"input_ids": ids[:, :begin], "decoder_input_ids": ids[:, begin:]} if begin else {"input_ids": ids}
                )
                logits = self._model(**given, use_cache=False).logits
                found = logits[0, [place - begin for place in places]]
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            what = f"transformers does not run {shown(self.path.name)} here: {_words(error)}"
            raise UnsupportedError(what, hint="its kernels may need a GPU", key=TRANSFORMERS) from error
        finally:
            torch.set_num_threads(before)
        yield found.float().numpy()


def _opens(config: Any) -> Any:
    """The class of transformers that opens a configuration: that of language models where it knows it as one, else of
    decoders that read an encoder, or of models that see, which predict text as well (Chameleon, Mistral 3)."""
    import transformers

    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForSeq2SeqLM
    seeing = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return transformers.AutoModelForImageTextToText if seeing else transformers.AutoModelForCausalLM


def _words(error: BaseException) -> str:
    """The first line of what a library says."""
    return shown(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__))

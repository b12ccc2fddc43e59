"""A GGUF file in real llama.cpp, through the prebuilt xllamacpp wheel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from quantkit.errors import UnsupportedError, VerificationError
from quantkit.tensors import F32

CONTEXT = 512
SILENT = -1  # below every level that llama.cpp logs at


class LlamaCpp:
    """A loaded model. llama.cpp runs in this process; its tokenizer is reached over the loopback interface."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load `path`. Raises UnsupportedError without xllamacpp, VerificationError when llama.cpp rejects the file."""
        try:
            import xllamacpp
        except ImportError as error:
            hint = "install the extra: pip install 'quantkit-cli[llamacpp]'"
            raise UnsupportedError("the llama.cpp engine is not installed", hint=hint) from error
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
        params.verbosity, params.warmup = SILENT, False
        params.cpuparams.n_threads = threads
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise VerificationError(f"llama.cpp does not load {path.name}: {error}", path=str(path)) from error

    def log_probabilities(self, tokens: Sequence[int], vocabulary: int) -> F32:
        """Natural log-probabilities (vocabulary,) of the token that follows `tokens`."""
        reply = self._server.handle_completions(
            {"prompt": list(tokens), "max_tokens": 1, "logprobs": vocabulary, "temperature": 0.0, "cache_prompt": False}
        )
        body = reply if isinstance(reply, dict) else json.loads(reply)
        result = np.full(vocabulary, -np.inf, dtype=np.float32)
        for entry in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            result[entry["id"]] = entry["logprob"]
        return result

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, with the file's own BOS/EOS rules and special tokens recognized in the text."""
        body = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return [int(token) for token in body["tokens"]]

    def continue_text(self, prompt: str, tokens: int) -> str:
        """Greedy continuation of `prompt`."""
        return str(self._post("/completion", {"prompt": prompt, "n_predict": tokens, "temperature": 0.0})["content"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        address = self._server.listening_address + path
        request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=120) as response:  # loopback: never by a proxy
                return dict(json.load(response))
        except (URLError, ValueError) as error:
            raise VerificationError(f"llama.cpp did not answer {path}: {error}") from error

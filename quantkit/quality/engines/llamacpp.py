"""A GGUF file in real llama.cpp, through the prebuilt xllamacpp wheel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np

from quantkit.errors import UnsupportedError, VerificationError
from quantkit.quality.distributions import TopTokens
from quantkit.tensors import F32
from quantkit.untrusted import shown

CONTEXT = 512
SILENT = -1  # below every level that llama.cpp logs at


def require_llamacpp() -> None:
    """Raise UnsupportedError where the optional wheel is not installed."""
    if find_spec("xllamacpp") is None:
        hint = "install the extra: pip install 'quantkit-cli[llamacpp]'"
        raise UnsupportedError("the llama.cpp engine is not installed", hint=hint, key="xllamacpp")


class LlamaCpp:
    """A loaded model. llama.cpp runs in this process; its tokenizer is reached over the loopback interface."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load `path`. Raises UnsupportedError without xllamacpp, VerificationError when llama.cpp rejects the file."""
        require_llamacpp()
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT, 1, 0
        params.verbosity, params.warmup = SILENT, False
        params.cpuparams.n_threads = threads
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            hint = "do not use this file; report it with its architecture and the version of xllamacpp"
            message = f"llama.cpp does not load {path.name}: {error}"
            raise VerificationError(message, path=str(path), hint=hint) from error
        # The server reports no distribution where the drawn token ends the text or a UTF-8 character is not complete
        # after it: draw this one always. What it reports is from before the bias.
        self._drawn = self.tokenize("a", special=False)[-1]

    def log_probabilities(self, tokens: Sequence[int], vocabulary: int) -> F32:
        """Natural log-probabilities (vocabulary,) of the token that follows `tokens`."""
        result = np.full(vocabulary, -np.inf, dtype=np.float32)
        top = self.likeliest(tokens, vocabulary)
        result[top.ids] = top.log_probabilities
        return result

    def likeliest(self, tokens: Sequence[int], count: int) -> TopTokens:
        """The `count` likeliest of the tokens that may follow `tokens`.

        Each takes llama.cpp some microseconds, so that whole distributions of large vocabularies cost seconds. What
        `tokens` shares with the start of the last request is not computed again.
        """
        request = {"prompt": list(tokens), "max_tokens": 1, "logprobs": count, "cache_prompt": True}
        reply = self._server.handle_completions({**request, "logit_bias": [[self._drawn, 1e4]], "temperature": 0.0})
        body = reply if isinstance(reply, dict) else json.loads(reply)
        if "choices" not in body:
            said = shown(str(body.get("message", body.get("error", body))))
            hint = "report it with the model's config.json; verify without --engine compares everything else"
            raise VerificationError(f"llama.cpp does not take {len(tokens):,} tokens: {said}", hint=hint)
        entries = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        ids = np.array([entry["id"] for entry in entries], np.int64)
        return TopTokens(ids, np.array([entry["logprob"] for entry in entries], np.float32))

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`, with the file's own BOS/EOS rules and special tokens recognized unless not `special`."""
        body = self._post("/tokenize", {"content": text, "add_special": special, "parse_special": special})
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
            hint = "run again; if it fails again, verify without --engine"
            raise VerificationError(f"llama.cpp did not answer {path}: {error}", hint=hint) from error

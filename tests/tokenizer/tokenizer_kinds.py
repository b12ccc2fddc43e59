"""Small tokenizers of every kind that the families use, as the files of a checkpoint.

Each is trained here on the probe strings, with exactly the normalizer, pre-tokenizer, post-processor and decoder
sections of the models it stands for; the SentencePiece Llama is the bundled one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.families.known import family_named
from quantkit.families.rows import TokenizerRules
from quantkit.tokenizer import pre_table as table
from quantkit.tokenizer.probes import probes

BUNDLED = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_BYTE_LEVEL = {**BYTE_LEVEL, "use_regex": True}
LEGACY_SPACES = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
LLAMA_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


@dataclass(frozen=True)
class Kind:
    """A checkpoint without weights: the files of a tokenizer, and what the rest of config.json would say."""

    family: str
    architecture: str
    files: Mapping[str, bytes]

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.files["config.json"]))

    @property
    def rules(self) -> TokenizerRules:
        return family_named(self.family).tokens

    def read_file(self, name: str) -> bytes | None:
        return self.files.get(name)

    def but(self, **changes: bytes | None) -> Kind:
        """With other files; in names, "__" stands for "."; None removes a file."""
        named = {name.replace("__", "."): data for name, data in changes.items()}
        return Kind(self.family, self.architecture, {k: v for k, v in {**self.files, **named}.items() if v is not None})

    def parsed(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.files[name]))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder


def dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def split(*patterns: str) -> dict[str, Any]:
    """Split by each pattern in turn, then encode bytes: the usual pre_tokenizer section."""
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


def section(row: table.Recognized) -> dict[str, Any]:
    """A pre_tokenizer section for a row of the table of recognized ones."""
    steps: list[dict[str, Any]] = []
    for step in row.steps:
        match step:
            case ("split", pattern):
                steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
            case ("digits", how):
                steps.append({"type": "Digits", "individual_digits": how == "each"})
            case ("punctuation", behavior):
                steps.append({"type": "Punctuation", "behavior": behavior})
            case ("gpt2",):
                steps.append(GPT2_BYTE_LEVEL)
    has_bytes = any(step["type"] == "ByteLevel" for step in steps)
    return {"type": "Sequence", "pretokenizers": steps if has_bytes else [*steps, BYTE_LEVEL]}


def bos_template(bos: str, index: int) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": bos, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }


def added(index: int, content: str, *, special: bool = True, **flags: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, **flags}
    return {"id": index, "content": content, "special": special, **plain}


def config(architecture: str, model_type: str, rows: int, **more: Any) -> bytes:
    """A config.json that the reference converter accepts, with an embedding of `rows` rows."""
    return dumped(
        {
            "architectures": [architecture], "model_type": model_type, "vocab_size": rows, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "original_max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
            **more,
        }
    )  # fmt: skip


@cache
def train_bpe(pre_tokenizer: str, normalizer: str = "null", size: int = 1500) -> dict[str, Any]:
    """The model section (vocab and merges) of a byte-level BPE trained with these sections (JSON)."""
    from tokenizers import Tokenizer, trainers

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    sections = {"normalizer": json.loads(normalizer), "pre_tokenizer": json.loads(pre_tokenizer), "model": empty}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **sections}))
    from tokenizers.pre_tokenizers import ByteLevel

    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(probes(), trainer)
    return dict(json.loads(tokenizer.to_str())["model"])


def byte_level(
    pre_tokenizer: dict[str, Any],
    special: list[str],
    *,
    normalizer: dict[str, Any] | None = None,
    post: Callable[[int], dict[str, Any]] | None = None,
    ignore_merges: bool = False,
    first: bool = False,
) -> dict[str, Any]:
    """A tokenizer.json of the byte-level kind. `special` tokens follow the vocabulary, or with `first` begin it."""
    model = json.loads(json.dumps(train_bpe(json.dumps(pre_tokenizer), json.dumps(normalizer))))
    model["ignore_merges"] = ignore_merges
    start = 0 if first else len(model["vocab"])
    if first:
        shifted = {token: index + len(special) for token, index in model["vocab"].items()}
        model["vocab"] = {**{token: index for index, token in enumerate(special)}, **shifted}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(start + n, token) for n, token in enumerate(special)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False} if post is None else post(start),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def size_of(tokenizer: dict[str, Any]) -> int:
    return len({*tokenizer["model"]["vocab"], *(token["content"] for token in tokenizer["added_tokens"])})


def steps_of(pre: str) -> dict[str, Any]:
    """The pre_tokenizer section that the table recognizes under this name."""
    return section(next(row for row in table.RECOGNIZED if pre in {row.name, row.whole_words}))


def llama_spm() -> Kind:
    names = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "config.json")
    return Kind("llama", "LlamaForCausalLM", {name: (BUNDLED / name).read_bytes() for name in names})


def llama_spm_model_only() -> Kind:
    return llama_spm().but(tokenizer__json=None, tokenizer_config__json=None)


def llama_json_v5() -> Kind:
    """As transformers 5 writes it: Metaspace, no normalizer."""
    return llama_spm().but(tokenizer__model=None)


def tinyllama_json() -> Kind:
    """The bundled tokenizer as transformers 4 wrote it, with Llama's legacy normalizer and no tokenizer.model."""
    kind = llama_spm()
    raw = {**kind.parsed("tokenizer.json"), "normalizer": LEGACY_SPACES, "pre_tokenizer": None}
    return kind.but(tokenizer__json=dumped(raw), tokenizer__model=None)


def mistral_json() -> Kind:
    """A byte-fallback BPE trained by the tokenizers library: one merge a token, unlike converted SentencePiece."""
    from tokenizers import Tokenizer, trainers

    empty = {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    sections = {"normalizer": LEGACY_SPACES, "pre_tokenizer": None, "model": empty, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", **sections}))
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], limit_alphabet=300, show_progress=False
    )
    tokenizer.train_from_iterator([word for text in probes() for word in _words(text)], trainer)
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [added(index, token) for index, token in enumerate(("<unk>", "<s>", "</s>"))]
    raw["post_processor"], raw["decoder"] = bos_template("<s>", 1), LLAMA_DECODER
    raw["pre_tokenizer"] = None
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped({**settings, "add_bos_token": True, "add_eos_token": False}),
        "config.json": config("MistralForCausalLM", "mistral", size_of(raw) + 5, bos_token_id=1, eos_token_id=2),
    }
    return Kind("llama", "MistralForCausalLM", files)


def _words(text: str) -> list[str]:
    return [f" {word}" for word in text.split(" ") if word]


def llama3() -> Kind:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    raw = byte_level(
        steps_of("llama-bpe"),
        special,
        ignore_merges=True,
        post=lambda start: {"type": "Sequence", "processors": [BYTE_LEVEL, bos_template(special[0], start)]},
    )
    start = raw["added_tokens"][0]["id"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[2],
        "clean_up_tokenization_spaces": True, "chat_template": "{{ bos_token }}{% for m in messages %}{% endfor %}",
    }  # fmt: skip
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config(
            "LlamaForCausalLM", "llama", size_of(raw), bos_token_id=start, eos_token_id=[start + 1, start + 2]
        ),
    }
    return Kind("llama", "LlamaForCausalLM", files)


def smollm() -> Kind:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    raw = byte_level(steps_of("smollm"), special, first=True)
    settings = {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>",
    }  # fmt: skip
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config("LlamaForCausalLM", "llama", size_of(raw), bos_token_id=1, eos_token_id=2),
    }
    return Kind("llama", "LlamaForCausalLM", files)


def qwen2(architecture: str = "Qwen2ForCausalLM", model_type: str = "qwen2", family: str = "qwen2") -> Kind:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = byte_level(steps_of("qwen2"), special, normalizer={"type": "NFC"})
    last = raw["added_tokens"][-1]["id"]
    raw["added_tokens"] += [added(last + 1, "<tool_call>", special=False), added(last + 2, "<think>", special=False)]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in raw["added_tokens"]}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
        "added_tokens_decoder": decoder, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": "{%- for m in messages %}{{ m.content }}{%- endfor %}",
    }  # fmt: skip
    rows = size_of(raw) + 37
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config(architecture, model_type, rows, bos_token_id=last - 2, eos_token_id=last),
    }
    return Kind(family, architecture, files)


def qwen3() -> Kind:
    return qwen2("Qwen3ForCausalLM", "qwen3", "qwen3")


def phi4() -> Kind:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|fim_prefix|>"]
    raw = byte_level(steps_of("dbrx"), special)
    start = raw["added_tokens"][0]["id"]
    settings = {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config("Phi3ForCausalLM", "phi3", size_of(raw) + 3, bos_token_id=start, eos_token_id=start + 2),
    }
    return Kind("phi3", "Phi3ForCausalLM", files)


def phi4_mini() -> Kind:
    special = ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"]
    raw = byte_level(steps_of("gpt-4o"), special)
    start = raw["added_tokens"][0]["id"]
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config("Phi3ForCausalLM", "phi3", size_of(raw), bos_token_id=start, eos_token_id=start),
    }
    return Kind("phi3", "Phi3ForCausalLM", files)


def mistral_nemo() -> Kind:
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    raw = byte_level(
        steps_of("tekken"), special, ignore_merges=True, first=True, post=lambda start: bos_template("<s>", start + 1)
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped({**settings, "unk_token": "<unk>", "add_bos_token": True}),
        "tekken.json": b"{}",
        "config.json": config("MistralForCausalLM", "mistral", size_of(raw), bos_token_id=1, eos_token_id=2),
    }
    return Kind("llama", "MistralForCausalLM", files)


def train_sentencepiece(**options: Any) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    plain = [text for text in probes() if "\n" not in text and "\r" not in text and text]
    SentencePieceTrainer.train(
        sentence_iterator=iter(plain), model_writer=model, model_type="bpe", byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.99,
        split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, **options,
    )  # fmt: skip
    return model.getvalue()


GEMMA_RUNS = (
    *("\n" * n for n in range(1, 12)), *("▁" * n for n in range(2, 32)), *("\t" * n for n in range(1, 5)),
    "<table>", "<mask>", "[@BOS@]", "<unused0>", "<unused1>",
)  # fmt: skip


def gemma2() -> Kind:
    """SentencePiece without a dummy prefix, with user-defined runs of spaces and newlines, all listed as added."""
    data = train_sentencepiece(
        vocab_size=1400, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>",
        eos_piece="<eos>", bos_piece="<bos>",
        user_defined_symbols=[*GEMMA_RUNS, "<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=data)
    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    decoder = {str(pieces.PieceToId(name)): added(0, name) for name in names}
    decoder |= {str(pieces.PieceToId(name)): added(0, name, special=False) for name in GEMMA_RUNS}
    settings = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
        "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "added_tokens_decoder": {k: {a: b for a, b in v.items() if a != "id"} for k, v in decoder.items()},
    }  # fmt: skip
    files = {
        "tokenizer.model": data,
        "tokenizer_config.json": dumped(settings),
        "config.json": config(
            "Gemma2ForCausalLM", "gemma2", 1408, bos_token_id=2, eos_token_id=1, pad_token_id=0,
            attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=64,
        ),
    }  # fmt: skip
    return Kind("gemma2", "Gemma2ForCausalLM", files)


def gemma3() -> Kind:
    kind = gemma2()
    text = {**kind.config, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "rope_theta": 1e6}
    return Kind("gemma3", "Gemma3ForCausalLM", {**kind.files, "config.json": dumped(text)})


def phi3() -> Kind:
    """Llama's SentencePiece with chat tokens after it and one in place of an ordinary piece's type."""
    kind = llama_spm()
    names = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|user|>"]
    listed = {"0": added(0, "<unk>"), "1": added(1, "<s>"), "2": added(2, "</s>", special=False)}
    listed |= {str(2048 + n): added(2048 + n, name) for n, name in enumerate(names)}
    settings = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
        "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>",
        "added_tokens_decoder": {k: {a: b for a, b in v.items() if a != "id"} for k, v in listed.items()},
    }  # fmt: skip
    raw = {**kind.parsed("tokenizer.json"), "normalizer": LEGACY_SPACES, "pre_tokenizer": None}
    raw["added_tokens"] = list(listed.values())
    files = {
        "tokenizer.model": kind.files["tokenizer.model"],
        "tokenizer.json": dumped(raw),
        "added_tokens.json": dumped({name: 2048 + n for n, name in enumerate(names)}),
        "tokenizer_config.json": dumped(settings),
        "config.json": config("Phi3ForCausalLM", "phi3", 2064, bos_token_id=1, eos_token_id=2048, pad_token_id=2048),
    }
    return Kind("phi3", "Phi3ForCausalLM", files)


KINDS: dict[str, Callable[[], Kind]] = {
    make.__name__: make
    for make in (
        llama_spm, llama_spm_model_only, tinyllama_json, mistral_json, llama_json_v5, llama3, smollm, qwen2, qwen3,
        phi3, phi4, phi4_mini, mistral_nemo, gemma2, gemma3,
    )
}  # fmt: skip


@cache
def kind(name: str) -> Kind:
    return KINDS[name]()

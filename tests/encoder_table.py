"""Small random encoders, one a row: model class, configuration, kind of tokenizer, and what lies beside.

Weights are random but fixed and of the size that trained ones have, so that embeddings of different texts differ.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

TEXT = Path(__file__).parents[1] / "LICENSE"
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 130,
}  # fmt: skip
MODULES = (
    '[{"type": "sentence_transformers.models.Transformer", "path": ""},'
    ' {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]'
)


def pooled(how: str) -> dict[str, str]:
    """The files of sentence-transformers that say how an embedding is made of a text's vectors."""
    return {"modules.json": MODULES, "1_Pooling/config.json": json.dumps({f"pooling_mode_{how}": True})}


@dataclass(frozen=True)
class Encoder:
    """A row. `pooling` is what llama.cpp is asked for where the files say nothing, `score` that it gives one. A
    model that transformers does not have is made of `shapes`; `raw` says that the reference takes config.json
    as it is.
    """

    model: str
    config: Mapping[str, Any]
    tokenizer: str
    files: Mapping[str, str] = field(default_factory=dict)
    pooling: str = "mean"
    score: bool = False
    edit: Callable[[dict[str, Any]], object] | None = None
    rename: tuple[tuple[str, str], ...] = ()
    shapes: Callable[[Mapping[str, Any]], Mapping[str, tuple[int, ...]]] | None = None
    raw: bool = False


ROBERTA = {**SIZES, "vocab_size": 400, "type_vocab_size": 1, "pad_token_id": 1}
XLM = {**SIZES, "vocab_size": 306, "type_vocab_size": 1, "pad_token_id": 1}
BERT = {**SIZES, "vocab_size": 320}
ONE = {"num_labels": 1}
NAMES = {"id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
DISTIL = {"vocab_size": 320, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 130}

MODERN = {
    **SIZES, "vocab_size": 400, "num_hidden_layers": 4, "local_attention": 16, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 420, "d_model": 64, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "decoder_start_token_id": 0,
}  # fmt: skip
IN_GROUPS = {"d_model": 128, "d_kv": 32, "d_ff": 256}  # whose rows are whole groups of 128


EMBEDDING_GEMMA = {  # windows of four tokens to either side
    **SIZES, "vocab_size": 2048, "num_hidden_layers": 7, "num_key_value_heads": 1, "head_dim": 32,
    "query_pre_attn_scalar": 32, "sliding_window": 8, "use_bidirectional_attention": True, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def _published(config: dict[str, Any]) -> None:
    """The names of transformers 4, which the Hub has."""
    for key in ("rope_parameters", "layer_types"):
        config.pop(key, None)
    config.update(
        global_rope_theta=160000.0,
        local_rope_theta=10000.0,
        global_attn_every_n_layers=3,
        layer_norm_eps=1e-5,
    )


SMALL_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "mask_token_id": 4}
EURO = {**SIZES, "vocab_size": 400, "num_key_value_heads": 2, **SMALL_IDS}
NOMIC = {  # as Nomic publishes it
    "vocab_size": 320, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "n_positions": 8192,
    "activation_function": "swiglu", "causal": False, "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_emb_base": 1000, "layer_norm_epsilon": 1e-12, "type_vocab_size": 2,
}  # fmt: skip
NOMIC_MOE = {
    **NOMIC, "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "n_positions": 2048, "n_layer": 4,
    "activation_function": "gelu", "qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True, "vocab_size": 306,
    "moe_every_n_layers": 2, "moe_top_k": 2, "num_experts": 4, "rotary_emb_base": 10000, "type_vocab_size": 1,
    "pad_token_id": 1,
}  # fmt: skip
NOMIC_SAVED = {**SIZES, "vocab_size": 320, "max_position_embeddings": 2048}
JINA = {
    **BERT, "architectures": ["JinaBertForMaskedLM"], "model_type": "bert", "position_embedding_type": "alibi",
    "type_vocab_size": 2, "hidden_act": "gelu", "feed_forward_type": "geglu", "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192,
}  # fmt: skip


def _as_nomic(config: dict[str, Any]) -> None:
    """The config.json that Nomic publishes instead of the one that transformers saves."""
    config.clear()
    config.update(NOMIC, architectures=["NomicBertModel"], model_type="nomic_bert")


def with_bias(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": shape[: 2 if part == "weight" else 1] for name, shape in shapes.items()
            for part in ("weight", "bias")}  # fmt: skip


def nomic_moe_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, experts = config["n_embd"], config["n_inner"], config["num_experts"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **with_bias({"emb_ln": (hidden,)}),
    }
    for layer in range(config["n_layer"]):
        block = f"encoder.layers.{layer}."
        found |= with_bias({f"{block}attn.Wqkv": (3 * hidden, hidden), f"{block}attn.out_proj": (hidden, hidden),
                            f"{block}norm1": (hidden,), f"{block}norm2": (hidden,)})  # fmt: skip
        if layer % config["moe_every_n_layers"] == 1:
            found |= {f"{block}mlp.experts.mlp.{w}": (experts * inner, hidden) for w in ("w1", "w2")}
            found |= {f"{block}mlp.router.layer.weight": (experts, hidden), f"{block}mlp.experts.bias": (hidden,)}
        else:
            found |= with_bias({f"{block}mlp.fc1": (inner, hidden), f"{block}mlp.fc2": (hidden, inner)})
    return found


def jina_shapes(config: Mapping[str, Any], *, code: bool = False) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **with_bias({"bert.embeddings.LayerNorm": (hidden,), "bert.pooler.dense": (hidden, hidden)}),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"bert.encoder.layer.{layer}."
        linears = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        norms = ["attention.output.LayerNorm", "mlp.layernorm"]
        if code:
            norms = [norms[0], "attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1",
                     "layer_norm_2"]  # fmt: skip
        found |= with_bias({f"{block}{name}": (hidden, hidden) for name in linears})
        found |= with_bias({f"{block}{name}": (hidden,) for name in norms})
        found |= with_bias({f"{block}mlp.{'down_layer' if code else 'wo'}": (hidden, inner)})
        found[f"{block}mlp.{'up_gated_layer' if code else 'gated_layers'}.weight"] = (2 * inner, hidden)
    return found


NEO: dict[str, Any] = {
    **{key: value for key, value in SIZES.items() if key != "max_position_embeddings"}, "vocab_size": 320,
    "architectures": ["NeoBERTLMHead"], "model_type": "neobert", "norm_eps": 1e-5, "max_length": 130,
}  # fmt: skip


def neobert_shapes(config: Mapping[str, Any], *, labels: int = 0) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], int(2 * config["intermediate_size"] / 3)
    found: dict[str, tuple[int, ...]] = {
        "model.encoder.weight": (config["vocab_size"], hidden), "model.layer_norm.weight": (hidden,),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        block = f"model.transformer_encoder.{layer}."
        found |= {
            f"{block}attention_norm.weight": (hidden,), f"{block}ffn_norm.weight": (hidden,),
            f"{block}qkv.weight": (3 * hidden, hidden), f"{block}wo.weight": (hidden, hidden),
            f"{block}ffn.w12.weight": (2 * inner, hidden), f"{block}ffn.w3.weight": (hidden, inner),
        }  # fmt: skip
    heads = {"dense": (hidden, hidden), "classifier": (labels, hidden)} if labels else {"decoder": (320, hidden)}
    return {**found, **with_bias(heads)}


ENCODERS: dict[str, Encoder] = {
    "bert-mean": Encoder("BertModel", BERT, "wordpiece", pooled("mean_tokens")),
    "bert-masked-lm": Encoder("BertForMaskedLM", BERT, "wordpiece"),
    "bert-of-tensorflow": Encoder(
        "BertModel",
        BERT,
        "wordpiece",
        rename=(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    ),
    "bert-vocab-txt": Encoder("BertModel", BERT, "vocab.txt", pooled("mean_tokens")),
    "bert-reranker": Encoder("BertForSequenceClassification", {**BERT, **ONE}, "wordpiece", {}, "rank", score=True),
    "bert-labels": Encoder("BertForSequenceClassification", {**BERT, **NAMES}, "wordpiece", {}, "rank", score=True),
    "distilbert": Encoder("DistilBertModel", DISTIL, "wordpiece", pooled("mean_tokens")),
    "roberta": Encoder("RobertaModel", ROBERTA, "bpe", pooled("mean_tokens")),
    "roberta-reranker": Encoder("RobertaForSequenceClassification", {**ROBERTA, **ONE}, "bpe", {}, "rank", score=True),
    "xlm-roberta": Encoder("XLMRobertaModel", XLM, "unigram", pooled("cls_token"), "cls"),
    "xlm-roberta-pieces": Encoder("XLMRobertaModel", XLM, "sentencepiece", pooled("cls_token"), "cls"),
    "xlm-roberta-reranker": Encoder(
        "XLMRobertaForSequenceClassification", {**XLM, **ONE}, "unigram", {}, "rank", score=True
    ),
    "modernbert": Encoder("ModernBertModel", MODERN, "modern", pooled("mean_tokens")),
    "modernbert-as-published": Encoder(
        "ModernBertModel", MODERN, "modern", pooled("cls_token"), "cls", edit=_published
    ),
    "modernbert-masked-lm": Encoder("ModernBertForMaskedLM", MODERN, "modern"),
    "modernbert-reranker": Encoder(
        "ModernBertForSequenceClassification",
        {**MODERN, **ONE, "classifier_pooling": "cls"},
        "modern",
        {},
        "rank",
        score=True,
    ),
    "nomic-bert": Encoder("NomicBertModel", NOMIC_SAVED, "wordpiece", pooled("mean_tokens"), edit=_as_nomic, raw=True),
    "nomic-bert-as-saved": Encoder("NomicBertModel", NOMIC_SAVED, "wordpiece", pooled("mean_tokens")),
    "nomic-bert-moe": Encoder(
        "NomicBertModel", NOMIC_MOE, "unigram", pooled("mean_tokens"), shapes=nomic_moe_shapes, raw=True
    ),
    "jina-bert-v2": Encoder(
        "JinaBertForMaskedLM", JINA, "wordpiece", pooled("mean_tokens"), shapes=jina_shapes, raw=True
    ),
    "jina-bert-v2-code": Encoder(
        "JinaBertModel",
        {**JINA, "architectures": ["JinaBertModel"], "vocab_size": 400},
        "bpe",
        pooled("mean_tokens"),
        shapes=lambda config: jina_shapes(config, code=True),
        raw=True,
    ),
    "neobert": Encoder("NeoBERTLMHead", NEO, "wordpiece", shapes=neobert_shapes, raw=True),
    "neobert-labels": Encoder(
        "NeoBERTForSequenceClassification",
        {**NEO, **NAMES, "architectures": ["NeoBERTForSequenceClassification"]},
        "wordpiece",
        score=True,
        shapes=lambda config: neobert_shapes(config, labels=3),
        raw=True,
    ),
    "eurobert": Encoder(
        "EuroBertModel",
        EURO,
        "bpe",
        pooled("mean_tokens"),
        edit=lambda config: config.pop("classifier_pooling"),
        raw=True,
    ),
    "eurobert-masked-lm": Encoder("EuroBertForMaskedLM", {**EURO, "num_key_value_heads": 4}, "bpe"),
    "t5-encoder": Encoder("T5EncoderModel", T5, "t5", pooled("mean_tokens")),
    "t5": Encoder("T5ForConditionalGeneration", {**T5, "tie_word_embeddings": False}, "t5"),
    "flan-t5": Encoder("T5ForConditionalGeneration", {**T5, **IN_GROUPS, "feed_forward_proj": "gated-gelu"}, "t5"),
    "embedding-gemma": Encoder("Gemma3TextModel", EMBEDDING_GEMMA, "gemma", pooled("mean_tokens")),
    "umt5": Encoder("UMT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, "t5"),
}


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` below `folder` and return its own folder."""
    import torch
    from safetensors.torch import load_file, save_file

    row, out = ENCODERS[name], folder / name
    random = torch.Generator().manual_seed(crc32(name.encode()))
    if row.shapes is not None:
        out.mkdir(parents=True)
        norm = re.compile(r".*(norm|_ln|LayerNorm|norm[_\d]\w*)\.weight", re.IGNORECASE)
        save_file(
            {
                key: torch.randn(shape, generator=random) * 0.15 + bool(norm.fullmatch(key))
                for key, shape in row.shapes(row.config).items()
            },
            out / "model.safetensors",
        )
        (out / "config.json").write_text(json.dumps(dict(row.config)))
    else:
        _save_of_transformers(row, out, random)
    if row.rename:
        tensors = load_file(out / "model.safetensors")
        for old, new in row.rename:
            tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
        save_file(tensors, out / "model.safetensors")
    if row.edit:
        config = json.loads((out / "config.json").read_text())
        (out / "saved.config.json").write_text(json.dumps(config))
        row.edit(config)
        (out / "config.json").write_text(json.dumps(config))
    for file, data in {**TOKENIZERS[row.tokenizer](), **{k: v.encode() for k, v in row.files.items()}}.items():
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_bytes(data)
    return out


def _save_of_transformers(row: Encoder, out: Path, random: Any) -> None:
    import torch
    import transformers

    model_class = getattr(transformers, row.model)
    model = model_class(model_class.config_class(**json.loads(json.dumps(dict(row.config)))))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            norm = parameter.dim() == 1 and parameter_name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.15 + norm)
    model.save_pretrained(out)


def around(first: str, last: str, ids: Mapping[str, int], twice: bool = False) -> dict[str, Any]:
    """A post-processor that puts a token first and one last, and one or two of the last between two texts."""

    def token(text: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": 0}}

    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    between = [token(last)] * (2 if twice else 1)
    return {
        "type": "TemplateProcessing",
        "single": [token(first), a, token(last)],
        "pair": [token(first), a, *between, b, token(last)],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in (first, last)},
    }


@cache
def wordpiece() -> dict[str, bytes]:
    """Some 300 tokens of the licence, as BERT's uncased vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.read_text().splitlines(), trainer)
    raw = json.loads(tokenizer.to_str())
    raw["post_processor"] = around("[CLS]", "[SEP]", raw["model"]["vocab"])
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        **{f"{k}_token": v for k, v in names.items()},
    }
    return {"tokenizer.json": json.dumps(raw).encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def vocab_txt() -> dict[str, bytes]:
    """The same vocabulary as the file that BERT was published with."""
    files = wordpiece()
    vocab = json.loads(files["tokenizer.json"])["model"]["vocab"]
    lines = sorted(vocab, key=vocab.__getitem__)
    return {
        "vocab.txt": "".join(f"{line}\n" for line in lines).encode(),
        "tokenizer_config.json": files["tokenizer_config.json"],
    }


@cache
def sentencepiece_model(**options: Any) -> bytes:
    """A Unigram model of 300 pieces of the licence, with sentencepiece's own map of characters."""
    import sentencepiece

    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.read_text().splitlines()), model_writer=found, vocab_size=300, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return found.getvalue()


XLM_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}


def xlm_settings() -> bytes:
    settings = {"tokenizer_class": "XLMRobertaTokenizer", **{f"{k}_token": v for k, v in XLM_NAMES.items()}}
    return json.dumps(settings).encode()


def sentencepiece_files() -> dict[str, bytes]:
    """XLM-RoBERTa's files of before tokenizer.json."""
    return {
        "sentencepiece.bpe.model": sentencepiece_model(unk_id=0, bos_id=1, eos_id=2),
        "tokenizer_config.json": xlm_settings(),
    }


@cache
def unigram() -> dict[str, bytes]:
    """The same model as the tokenizer.json that transformers publishes it with."""
    import base64

    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model(unk_id=0, bos_id=1, eos_id=2))
    shifted = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [[text, 0.0] for text in shifted] + [[p.piece, p.score] for p in model.pieces[3:]] + [["<mask>", 0.0]]
    ids = {text: index for index, (text, _) in enumerate(vocab)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    raw = {
        "version": "1.0",
        "added_tokens": [{"id": ids[text], "content": text, **flags} for text in (*shifted, "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": around("<s>", "</s>", ids, twice=True),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
    return {"tokenizer.json": json.dumps(raw).encode(), "tokenizer_config.json": xlm_settings()}


@cache
def bpe() -> dict[str, bytes]:
    """RoBERTa's kind: byte-level, with a processor of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.read_text().splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    settings = {"tokenizer_class": "RobertaTokenizer", **{f"{k}_token": v for k, v in XLM_NAMES.items()}}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def modern() -> dict[str, bytes]:
    """ModernBERT's kind: byte-level, with a template."""
    files = bpe()
    raw = json.loads(files["tokenizer.json"])
    raw["post_processor"] = around("<s>", "</s>", {"<s>": 0, "</s>": 2})
    settings = json.loads(files["tokenizer_config.json"])
    settings = {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer.json": json.dumps(raw).encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def t5_files() -> dict[str, bytes]:
    """T5's spiece.model."""
    settings = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return {
        "spiece.model": sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def gemma() -> dict[str, bytes]:
    """Gemma's tokenizer.model, which puts no space before a text."""
    from sentencepiece import sentencepiece_model_pb2

    folder = Path(__file__).parent / "data" / "docs-llama-tiny"
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    return {
        "tokenizer.model": model.SerializeToString(),
        "tokenizer_config.json": (folder / "tokenizer_config.json").read_bytes(),
    }


TOKENIZERS: Mapping[str, Callable[[], Mapping[str, bytes]]] = {
    "wordpiece": wordpiece, "vocab.txt": vocab_txt, "unigram": unigram, "sentencepiece": sentencepiece_files,
    "bpe": bpe, "modern": modern, "t5": t5_files, "gemma": gemma,
}  # fmt: skip

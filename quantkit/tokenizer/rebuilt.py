"""The tokenizer that is in a GGUF file, made from nothing but its `tokenizer.*` entries, by llama.cpp's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.files import is_index
from quantkit.tokenizer.gemma4 import GEMMA4, rebuild_gemma4
from quantkit.tokenizer.libraries import (
    BatchEncoder,
    Encoder,
    Finder,
    by_library,
    by_sentencepiece,
    cut_before,
    load_sentencepiece,
    one_by_one,
)
from quantkit.tokenizer.llama_cpp_tokens import FOUND_IN_TEXT, found_at_load
from quantkit.tokenizer.plamo import best_sum
from quantkit.tokenizer.pre_table import LLAMA_CPP
from quantkit.tokenizer.rebuilt_pieces import rebuild_unigram, rebuild_wordpiece, unigram_model
from quantkit.tokenizer.rwkv import rebuild_world
from quantkit.tokenizer.sentencepiece_model import BPE, Piece, SentencePieceModel, encode_sentencepiece
from quantkit.tokenizer.vocabulary import Token, TokenType
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer as LibraryPreTokenizer

GGML, TOKENIZER, NAME = "tokenizer.ggml.", "tokenizer.", "general.name"
DEFAULT_IDS = {  # llama.cpp's, by model
    "llama": {"bos": 1, "eos": 2, "unk": 0}, "gpt2": {"bos": 11, "eos": 11},
    "bert": {"bos": 101, "sep": 102, "unk": 100, "pad": 0}, "t5": {"eos": 1, "unk": 2, "pad": 0},
    "gemma4": {}, "rwkv": {}, "plamo2": {"bos": 1, "eos": 2, "unk": 0, "pad": 3},
}  # fmt: skip
WRITTEN = f"quantkit writes the vocabularies {', '.join(DEFAULT_IDS)}"
KEEP_SPACES = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@record
class Artifact:
    """What a file says of its tokenizer: `values` by key below tokenizer.ggml (or tokenizer), `kinds` of `tokens`;
    `first` and `last` are the ids that llama.cpp puts around a text; `name` is general.name."""

    values: Mapping[str, Any]
    tokens: Sequence[str]
    kinds: Sequence[TokenType]
    first: tuple[int, ...]
    last: tuple[int, ...]
    name: str

    @property
    def pre(self) -> str:
        return str(self.values.get("pre"))

    @property
    def special(self) -> dict[str, int]:
        """The texts that llama.cpp looks for before it splits, with their ids."""
        pairs = enumerate(zip(self.tokens, self.kinds, strict=True))
        return {text: index for index, (text, kind) in pairs if kind in FOUND_IN_TEXT and text}

    @property
    def found_at_load(self) -> dict[str, int]:
        """Ordinary tokens that llama.cpp looks for all the same."""
        return found_at_load(self.tokens, self.kinds)

    @property
    def strips_after(self) -> dict[str, int]:
        """Tokens after which llama.cpp drops spaces: it does so for models that are called Phi-3."""
        if not any(part in self.name.lower() for part in ("phi-3", "phi3")):
            return {}
        return {text: index for text, index in self.special.items() if text not in KEEP_SPACES}

    def default_id(self, kind: str) -> int | None:
        """The id that llama.cpp takes for "bos", "eos", "unk" or "pad" where the file says none."""
        return DEFAULT_IDS.get(str(self.values.get("model")), {}).get(kind)


def read_artifact(metadata: Sequence[KeyValue]) -> Artifact:
    """Read the entries of a file. Raises InputError for ones that are missing or contradict each other,
    UnsupportedError for vocabularies that quantkit does not write."""
    values = {e.key.removeprefix(GGML).removeprefix(TOKENIZER): e.value for e in metadata}
    tokens = [str(text) for text in _array(values, "tokens")]
    kinds = _token_types(values, len(tokens))
    model = values.get("model")
    if model not in DEFAULT_IDS:
        message = f'vocabulary model "{shown(str(model))}" cannot be rebuilt'
        raise UnsupportedError(message, key="tokenizer.ggml.model", hint=WRITTEN)
    pre = LLAMA_CPP.get(str(values.get("pre")))
    adds_bos = model in ("llama", GEMMA4) or (pre is not None and pre.adds_bos)
    ids = DEFAULT_IDS[str(model)]
    if model == "bert":  # always, whatever the file says
        first = [_index(values, "bos_token_id", ids["bos"])]
        last = [_index(values, "seperator_token_id", ids["sep"])]
    else:
        first = [_index(values, "bos_token_id", ids.get("bos"))] if values.get("add_bos_token", adds_bos) else []
        last = [_index(values, "eos_token_id", ids.get("eos"))] if values.get("add_eos_token", model == "t5") else []
    name = next((str(e.value) for e in metadata if e.key == NAME), "")
    return Artifact(values, tokens, kinds, tuple(first), tuple(last), name)


def rebuild(metadata: Sequence[KeyValue], *, add_special: bool = True) -> Encoder:
    """The encoder that the `tokenizer.*` entries of a GGUF file describe; `add_special` adds BOS and EOS.

    See `rebuild_batches` for how, and for errors.
    """
    artifact = read_artifact(metadata)
    encode = rebuild_batches(artifact)
    return one_by_one(encode, artifact.first, artifact.last) if add_special else one_by_one(encode)


def rebuild_batches(artifact: Artifact) -> BatchEncoder:
    """The encoder of a file by llama.cpp's rules, without BOS and EOS: special tokens are cut out of the text, longest
    first.

    "llama" vocabularies are encoded by sentencepiece, "gpt2" ones by tokenizers with the patterns of their
    pre-tokenizer; for "bert" and "t5" see `rebuilt_pieces`. Raises InputError for entries that are missing or
    contradict each other, UnsupportedError for pre-tokenizers without patterns.
    """
    match artifact.values.get("model"):
        case "llama":
            encode = _rebuild_spm(artifact)
        case "bert":
            encode = rebuild_wordpiece(artifact.values, artifact.tokens, unknown_of(artifact))
        case "t5":
            encode = rebuild_unigram(unigram_of(artifact))
        case "gemma4":
            said = artifact.values.get("unknown_token_id")
            unknown = None if said is None else _index(artifact.values, "unknown_token_id", None)
            encode = rebuild_gemma4(artifact.tokens, _merges(artifact.values, artifact.tokens), unknown)
        case "rwkv":
            encode = rebuild_world(artifact.tokens, artifact.kinds)
        case "plamo2":
            scores = _scores(artifact.values, len(artifact.tokens))
            encode = best_sum([Token(*each) for each in zip(artifact.tokens, artifact.kinds, scores, strict=True)])
        case _:
            encode = _rebuild_bpe(artifact.values, artifact.tokens)
    return cut_before(Finder({**artifact.special, **artifact.found_at_load}).cut_longest_first, encode)


def unknown_of(artifact: Artifact) -> int:
    """The id of the unknown token."""
    return _index(artifact.values, "unknown_token_id", artifact.default_id("unk"))


def unigram_of(artifact: Artifact) -> SentencePieceModel:
    """A "t5" vocabulary as a SentencePiece model."""
    scores = _scores(artifact.values, len(artifact.tokens))
    pieces = list(zip(artifact.tokens, scores, artifact.kinds, strict=True))
    return unigram_model(artifact.values, pieces, unknown_of(artifact))


def _scores(values: Mapping[str, Any], count: int) -> list[float]:
    scores = _array(values, "scores")
    if len(scores) != count or not all(isinstance(score, float | int) for score in scores):
        raise _contradiction("scores", f"{len(scores):,} numbers for {count:,} tokens")
    return [float(score) for score in scores]


def _array(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise _contradiction(key, "missing")
    return [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in found]


def _token_types(values: Mapping[str, Any], count: int) -> list[TokenType]:
    """The types of `count` tokens. Raises InputError where there are others, or none."""
    numbers = _array(values, "token_type")
    known = {int(kind): kind for kind in TokenType}
    if len(numbers) != count or not known.keys() >= set(numbers):
        raise _contradiction("token_type", f"{len(numbers):,} types from 1 to {len(known)} for {count:,} tokens")
    return [known[number] for number in numbers]


def _index(values: Mapping[str, Any], key: str, default: int | None) -> int:
    found = values.get(key, default)
    if not is_index(found, len(values["tokens"])):
        raise _contradiction(key, f"{shown(str(found))} is no token")
    return int(found)


def _contradiction(key: str, why: str) -> InputError:
    hint = "the file is damaged: convert again"
    return InputError(f"tokenizer.ggml.{key}: {why}", key=f"tokenizer.ggml.{key}", hint=hint)


def _rebuild_spm(artifact: Artifact) -> BatchEncoder:
    values, tokens = artifact.values, artifact.tokens
    scores = _scores(values, len(tokens))
    unknown = _index(values, "unknown_token_id", 0)
    pieces = []
    for index, (text, score, kind) in enumerate(zip(tokens, scores, artifact.kinds, strict=True)):
        told = TokenType.CONTROL if kind is TokenType.UNKNOWN else kind  # sentencepiece wants exactly one unknown
        pieces.append(Piece(text, float(score), TokenType.UNKNOWN if index == unknown else told))
    known = {text: index for index, text in enumerate(tokens)}
    made_up = _missing_bytes(pieces, known)
    more = [Piece(text, 0.0, TokenType.BYTE) for text in made_up]
    prefix = values.get("add_space_prefix", True) is True
    model = SentencePieceModel((*pieces, *more), BPE, add_dummy_prefix=prefix, remove_extra_whitespaces=False)
    encode = by_sentencepiece(load_sentencepiece(encode_sentencepiece(model)))
    if not made_up:
        return encode
    instead = [known.get(chr(int(text[3:5], 16)), unknown) for text in made_up]

    def encode_all(texts: Sequence[str]) -> list[list[int]]:
        start = len(tokens)
        return [[i if i < start else instead[i - start] for i in ids] for ids in encode(texts)]

    return encode_all


def _missing_bytes(pieces: Sequence[Piece], known: Mapping[str, int]) -> list[str]:
    """Byte tokens that a vocabulary with some of them lacks: sentencepiece wants all or none. llama.cpp takes the
    token of that character instead."""
    if not any(piece.kind is TokenType.BYTE for piece in pieces):
        return []
    return [text for byte in range(256) if (text := f"<0x{byte:02X}>") not in known]


def _rebuild_bpe(values: Mapping[str, Any], tokens: Sequence[str]) -> BatchEncoder:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE as Merges

    name = str(values.get("pre"))
    pre = LLAMA_CPP.get(name)
    if pre is None or not pre.patterns:
        message = f'the pre-tokenizer "{shown(name)}" cannot be rebuilt'
        raise UnsupportedError(message, key="tokenizer.ggml.pre", hint="verify with --engine llama.cpp")
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(Merges(vocab, _merges(values, tokens), ignore_merges=pre.whole_words))
    tokenizer.pre_tokenizer = cut_by(pre.patterns)
    return by_library(tokenizer)


def _merges(values: Mapping[str, Any], tokens: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that merge, in order of rank. Raises InputError for what is no pair of tokens that make one."""
    known, merges = frozenset(tokens), []
    for rank, merge in enumerate(_array(values, "merges")):
        left, _, right = str(merge).partition(" ")
        if not (left in known and right in known and left + right in known):
            raise _contradiction("merges", f"merge {rank} is {shown(str(merge))}, expected two tokens")
        merges.append((left, right))
    return merges


def cut_by(patterns: Sequence[str]) -> LibraryPreTokenizer:
    """llama.cpp's patterns as a pre-tokenizer of the tokenizers library."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    split = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*split, ByteLevel(add_prefix_space=False, use_regex=False)])

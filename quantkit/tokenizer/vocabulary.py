"""A vocabulary as a GGUF file stores it: one text, type and score for each row of the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from quantkit.errors import InputError
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.untrusted import shown

SPACE = "▁"  # SentencePiece writes spaces as U+2581
ADDED_SCORE = -1000.0  # the score the reference converter gives to added tokens
PADDING_SCORE = -10000.0  # and to padding
SCORED = ("llama", "t5", "gemma4", "plamo2")  # models that choose by scores, or have them all the same
UNSPLIT = ("gemma4", "rwkv")  # models whose name says how text is split before


class TokenType(IntEnum):
    """enum llama_token_type, which took its numbers from SentencePiece's enum ModelProto.SentencePiece.Type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@record(slots=True)
class Token:
    """One vocabulary entry. `score` decides the order of merges in vocabularies that have no merges."""

    text: str
    kind: TokenType
    score: float = 0.0


@record
class Vocabulary:
    """The split of text into tokens, as llama.cpp gets it.

    `model` is "llama" (SentencePiece-style: the best score merges first), "gpt2" (byte-level: merges by rank, inside
    the pieces that the pre-tokenizer `pre` makes), "bert" (WordPiece: the longest token first), "t5" (Unigram: the
    best sum of scores), "plamo2" (the same, of a vocabulary in a file of its own) or "rwkv" (byte strings, the longest
    first). `tokens` is as long as the embedding has rows.
    `space_prefix` says whether a space is put before text; None leaves it to llama.cpp (which does it for "llama" and
    not for "gpt2"). `more` are entries of this model alone, `normal` those that say how text is changed before.
    """

    model: str
    pre: str
    tokens: tuple[Token, ...]
    merges: tuple[str, ...] = ()
    space_prefix: bool | None = None
    more: tuple[KeyValue, ...] = ()
    normal: tuple[KeyValue, ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[KeyValue, ...]:
        """The `tokenizer.ggml.*` entries that say what the tokens are, in the reference converter's order."""
        scores = tuple(token.score for token in self.tokens)
        scored = (KeyValue("tokenizer.ggml.scores", "f32", scores, array=True),) if self.model in SCORED else ()
        types = tuple(int(token.kind) for token in self.tokens)
        pre = () if self.model in UNSPLIT else (KeyValue("tokenizer.ggml.pre", "string", self.pre),)
        merges = (KeyValue("tokenizer.ggml.merges", "string", self.merges, array=True),) if self.merges else ()
        return (
            KeyValue("tokenizer.ggml.model", "string", self.model),
            *pre,
            KeyValue("tokenizer.ggml.tokens", "string", tuple(token.text for token in self.tokens), array=True),
            *scored,
            KeyValue("tokenizer.ggml.token_type", "i32", types, array=True),
            *merges,
            *self.more,
        )


def looks_special(text: str) -> bool:
    """Whether a token is taken for a control token although its tokenizer does not mark it as special.

    The reference converter does the same (conversion/base.py, does_token_look_special): several models mark tokens of
    their chat formats as ordinary ones.
    """
    return (
        text in {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def padding(index: int, score: float) -> Token:
    """The token of an embedding row that no text leads to."""
    return Token(f"[PAD{index}]", TokenType.UNUSED, score)


def check_distinct(tokens: Sequence[Token]) -> None:
    """Raise InputError naming two tokens of the same text: llama.cpp stops the process on such a vocabulary."""
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if seen.setdefault(token.text, index) != index:
            message = f'tokens {seen[token.text]} and {index} are both "{shown(token.text)}"'
            hint = "llama.cpp cannot load such a vocabulary; remove one of the two from the tokenizer files"
            raise InputError(message, key="tokenizer.ggml.tokens", hint=hint)


def missing_bytes(tokens: Sequence[Token]) -> tuple[tuple[str, str], ...]:
    """A warning when a SentencePiece-style vocabulary lacks byte tokens: llama.cpp stops on text that needs one.

    A token of the character alone does for a byte below 0x80: llama.cpp looks for that next (byte_to_token).
    """
    texts = {token.text for token in tokens}
    missing = sum(f"<0x{byte:02X}>" not in texts and not (byte < 0x80 and chr(byte) in texts) for byte in range(256))
    if not missing:
        return ()
    message = f"{missing} of the 256 byte tokens are missing; llama.cpp fails on text that needs one of them"
    return (("tokenizer-bytes", message),)

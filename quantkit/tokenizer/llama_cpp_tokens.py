"""What llama.cpp makes of token types when it loads a file, whatever the file says.

It looks for the texts of tokens that end a reply or frame an infill and calls them control tokens
(src/llama-vocab.cpp, llama_vocab::impl::load, October 2026). An ordinary token of such a text, like the `</s>` that
Qwen's vocabulary has for HTML, is then found in text before anything is split, which its own tokenizer does not do.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.tokenizer.vocabulary import TokenType

ENDS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
})  # fmt: skip
INFILL = frozenset({
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
    "▁<MID>", "<|code_middle|>", "<|middle|>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
})  # fmt: skip
SHOWN = frozenset({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})  # gpt-oss: made user-defined
ORDINARY_END = {"<|tool_response>", "<|plamo:eos|>"}  # with one of these "</s>" stays, or becomes, an ordinary token
FOUND_IN_TEXT = frozenset({TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN})


def found_at_load(tokens: Sequence[str], kinds: Sequence[TokenType]) -> dict[str, int]:
    """Tokens, with their ids, that the file calls ordinary and that llama.cpp may find in text all the same.

    Of several texts for one purpose (`<PRE>`, `<|fim_prefix|>`) llama.cpp takes one, by chance; all are given.
    """
    by_text = {text: index for index, text in enumerate(tokens) if text in ENDS or text in INFILL or text in SHOWN}
    if "</s>" in by_text and not ORDINARY_END.isdisjoint(tokens):
        del by_text["</s>"]
    return {text: index for text, index in by_text.items() if kinds[index] not in FOUND_IN_TEXT}

"""Is the tokenizer in a file the source's? Asked without llama.cpp.

Two things are compared. Facts, entry by entry: every token's text, every special or added token of every source
file with its kind, the ids of BOS, EOS, UNK and PAD, what is put around a text, the chat template
(`tokenizer_facts`). And what comes out: the source's own tokenizer (`source_tokenizer`) and one made from the entries
of the written file alone (`rebuilt_tokenizer`) encode 2,000 texts and some thousand words of the source's vocabulary
(`probe_choice`). All expectations come from the source's files; what the file says of itself decides nothing but how
it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.facts import framing_problems, id_notes, id_problems, template_problems, token_problems
from quantkit.tokenizer.files import ReadFile
from quantkit.tokenizer.own import SourceTokenizer, open_source_tokenizer
from quantkit.tokenizer.probe_choice import Chosen, LeftOut, choose
from quantkit.tokenizer.rebuilt import Artifact, read_artifact, rebuild, rebuild_batches
from quantkit.untrusted import shown

__all__ = ["Comparison", "check_tokenizer", "comparable", "comparable_probes", "rebuild"]


@record
class Comparison:
    """`passed` of `total` probes got the same ids, and `words_passed` of `words` of the vocabulary. `difference` shows
    the first that did not, "" if there is none. `problems` are entries that are not the source's; `notes` are worth
    knowing. `reasons` say why texts and words were not compared, and how many."""

    passed: int
    total: int
    difference: str
    words_passed: int = 0
    words: int = 0
    special_tokens: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reasons: LeftOut = ()

    @property
    def ok(self) -> bool:
        return self.passed == self.total and self.words_passed == self.words and not self.problems

    @property
    def left_out(self) -> int:
        return sum(count for _, count in self.reasons)


def check_tokenizer(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> Comparison:
    """Compare the tokenizer that a file's metadata describes with the source's.

    Takes about two seconds for a vocabulary of 128,000. Raises InputError for metadata or source files that no
    tokenizer can be made of, UnsupportedError for the two pre-tokenizers whose splitting is code of llama.cpp's own.
    """
    source, artifact = open_source_tokenizer(read_file, config), read_artifact(metadata)
    chosen = choose(source, artifact)
    wrong = _differing(source, artifact, (*chosen.texts, *chosen.words))
    words = sum(at >= len(chosen.texts) for at in wrong)
    return Comparison(
        passed=len(chosen.texts) - len(wrong) + words,
        total=len(chosen.texts),
        difference=next(iter(wrong.values()), ""),
        words_passed=len(chosen.words) - words,
        words=len(chosen.words),
        special_tokens=len(source.listed_texts),
        problems=find_problems(source, artifact),
        notes=tuple(id_notes(source, artifact)),
        reasons=chosen.left_out,
    )


def find_problems(source: SourceTokenizer, artifact: Artifact) -> tuple[str, ...]:
    """Entries of a file that are not the source's, each as a sentence that names it."""
    return (
        *template_problems(source, artifact),
        *id_problems(source, artifact),
        *framing_problems(source, artifact),
        *token_problems(source, artifact),
    )


def _differing(source: SourceTokenizer, artifact: Artifact, texts: Sequence[str]) -> dict[int, str]:
    """Texts that get other ids: position -> what differs."""
    expected, found = source.encode(texts), rebuild_batches(artifact)(texts)
    around = (source.first, source.last) == (artifact.first, artifact.last)
    pairs = enumerate(zip(texts, expected, found, strict=True))
    return {at: _shown(text, want, have, artifact) for at, (text, want, have) in pairs if want != have or not around}


def _shown(text: str, want: list[int], have: list[int], artifact: Artifact) -> str:
    if want == have:
        return f'"{shown(text, 60)}": {want[:3]} as the source has it, but other tokens around them'
    at = next((i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
    split = f' (pre-tokenizer "{shown(artifact.pre)}")' if artifact.values.get("model") == "gpt2" else ""
    return f'"{shown(text, 60)}"{split}: token {at} is {have[at : at + 3]}, the source has {want[at : at + 3]}'


def comparable_probes(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of `comparable`."""
    return comparable(metadata, read_file, config).texts


def comparable(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> Chosen:
    """The texts and words that llama.cpp can split as the source does, and what was left out for which reason."""
    return choose(open_source_tokenizer(read_file, config), read_artifact(metadata))

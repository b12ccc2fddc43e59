"""The looks at how an artifact splits text: without llama.cpp (`check_tokenizer`), and in it (`compare_tokens`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.formats.gguf.file import read_gguf
from quantkit.metadata import KeyValue
from quantkit.quality.checks.base import Check
from quantkit.quality.made import Made
from quantkit.quality.made_gguf import tokenizer_keys
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tokenizer.check import Comparison
from quantkit.tokenizer.check import check_tokenizer as compare_tokenizers
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probe_choice import choose
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.rebuilt import NAME, read_artifact
from quantkit.units import counted
from quantkit.untrusted import listed

PRE = "tokenizer.ggml.pre"
MAX_PROBLEMS = 20  # in JSON
MAX_WORDS = 500  # an engine is asked over a socket, one text at a time


@record
class TokenComparison:
    """What an engine makes of the probes: `wrong` texts of `total`, the source's ids for all of them, and for every
    reason to leave probes out how many."""

    wrong: tuple[str, ...]
    total: int
    ids: tuple[tuple[int, ...], ...]
    left_out: tuple[tuple[str, int], ...] = ()

    @property
    def detail(self) -> str:
        """ "1,990/1,990 probes (10 left out: ...)"."""
        return f"{self.total - len(self.wrong):,}/{counted(self.total, 'probe')}{said(self.left_out)}"

    def as_json(self) -> dict[str, Any]:
        return {
            "tokenizer_probes": self.total,
            "tokenizer_differences": len(self.wrong),
            "tokenizer_left_out": dict(self.left_out),
        }


def compare_tokens(tokenize: Callable[[str], list[int]], artifact: Path, checkpoint: Checkpoint) -> TokenComparison:
    """Ask an engine for the ids of the probes and compare them with the source's.

    A GGUF source has no tokenizer of its own to compare with: its ids are the engine's.
    """
    if checkpoint.kind == "gguf":
        ids = tuple(tuple(tokenize(text)) for text in probes())
        return TokenComparison((), len(ids), ids)
    source = open_source_tokenizer(checkpoint.read_file, checkpoint.config)
    chosen = choose(source, read_artifact(read_gguf(artifact).metadata))
    texts = (*chosen.texts, *chosen.words[:MAX_WORDS])
    expected = tuple((*source.first, *ids, *source.last) for ids in source.encode(texts))
    wrong = tuple(text for text, want in zip(texts, expected, strict=True) if tuple(tokenize(text)) != want)
    return TokenComparison(wrong, len(expected), expected, chosen.left_out)


def said(left_out: Sequence[tuple[str, int]]) -> str:
    """ " (12 left out: why; 3: why)", "" where nothing was left out."""
    if not left_out:
        return ""
    total = sum(count for _, count in left_out)
    if len(left_out) == 1:
        return f" ({total:,} left out: {left_out[0][0]})"
    return f" ({total:,} left out: " + "; ".join(f"{count:,} {why}" for why, count in left_out) + ")"


class Compared:
    """What came of comparing tokenizers with that of a source, by everything of a file that decides it.

    All files that are made from one source have the same entries: the libraries are loaded, and asked, for the first.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._entries: dict[str, object] = {}
        self._found: Comparison | None = None

    def of(self, metadata: Sequence[KeyValue]) -> Comparison:
        """The comparison of a file with these entries. Raises what `tokenizer.check.check_tokenizer` raises."""
        entries = tokenizer_keys(metadata) | {kv.key: kv.items() for kv in metadata if kv.key == NAME}
        if self._found is None or entries != self._entries:
            self._found = compare_tokenizers(metadata, self._checkpoint.read_file, self._checkpoint.config)
            self._entries = entries
        return self._found


def check_tokenizer(
    made: Made,
    source: Checkpoint,
    expected: Mapping[str, object],
    rewritten: frozenset[str] = frozenset(),
    compared: Compared | None = None,
) -> Check:
    """What an artifact carries besides weights is `expected`, the source's; and entries of a GGUF file, which are made
    of the source's files, rebuilt without it encode the probe strings as it does.

    Of the names in `rewritten` another content is a note. `compared` remembers what came of other files of this source.
    """
    found, kind = made.carried(), made.carries
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    noted = [name for name in wrong if name in rewritten]
    failed = _failed([name for name in wrong if name not in noted], found, kind)
    if failed is not None:
        return replace(failed, data={f"differing_{kind}": wrong})
    if not made.metadata or source.kind in ("gguf", "adapter"):
        also = "".join(f"; {name} is another" for name in noted)
        what = f"{len(expected) - len(noted)} {kind} as in the source{also}"
        return Check("tokenizer", True, what, {kind: len(expected)})
    comparison = (compared or Compared(source)).of(made.metadata)
    return Check("tokenizer", comparison.ok, _detail(comparison), _data(comparison))


def _failed(wrong: Sequence[str], found: Mapping[str, object], kind: str) -> Check | None:
    """What is said of things that differ; None where nothing does. Files that are missing come first."""
    missing = [name for name in wrong if found.get(name) is None] if kind == "files" else []
    if missing:
        hint = f"copy {listed(missing, 3)} from the source into the folder"
        return Check("tokenizer", False, f"{listed(missing, 3)} is missing, which the source has", hint=hint)
    if not wrong:
        return None
    hint = "give the --pre that convert was given, if it was" if wrong == [PRE] else ""
    if kind == "files":
        hint = "give the source that it was made from with --against, or copy the file from there"
    return Check("tokenizer", False, f"{wrong[0]} is not what the source has", hint=hint)


def _detail(compared: Comparison) -> str:
    detail = f"{compared.passed:,}/{counted(compared.total, 'probe')}"
    if compared.words:
        detail += f", {compared.words_passed:,}/{compared.words:,} words of the vocabulary"
    detail += said(compared.reasons)
    if compared.difference:
        detail += f", first difference {compared.difference}"
    if compared.problems:
        more = f" and {len(compared.problems) - 1:,} more" if len(compared.problems) > 1 else ""
        detail = f"{compared.problems[0]}{more}; {detail}"
    return "; ".join((detail, *compared.notes))


def _data(compared: Comparison) -> dict[str, Any]:
    return {
        "passed": compared.passed,
        "probes": compared.total,
        "words_passed": compared.words_passed,
        "words": compared.words,
        "special_tokens": compared.special_tokens,
        "left_out": compared.left_out,
        "left_out_reasons": dict(compared.reasons),
        "problems": list(compared.problems[:MAX_PROBLEMS]),
        "notes": list(compared.notes),
    }

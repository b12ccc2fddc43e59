"""A chat template in Ollama's terms: derived from what it renders, and proved by rendering both."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.calibration.text.templates import ChatTemplate, render_each
from quantkit.errors import InputError
from quantkit.ollama.asking import Ask, Texts, ask
from quantkit.ollama.conversations import SYSTEM, USER, later_systems, marked, plain, special
from quantkit.ollama.emit import go_template
from quantkit.ollama.gotemplate import parse
from quantkit.ollama.proof import Proof, first_of_each_case, prove
from quantkit.ollama.shape import START, Shape, ShapeError, recover
from quantkit.records import record

DATES = "they know 2026-11-29"
CASES = {
    "blanks": "the chat template takes blanks off the ends of messages, which Ollama's templates cannot",
    "empty": "empty messages",
    "reasoning": "the chat template takes reasoning out of earlier replies, which Ollama's templates cannot",
    "markup": "the chat template changes messages that hold special tokens",
    "later": "messages of the system after the first message",
}


@record
class Translation:
    """`template` is Ollama's, None where there is none: then `why`. `proved` conversations gave equal texts.

    `caveats` are what is not the same, each with the conversation that shows it. `shape` is what was recovered.
    """

    template: str | None
    why: str = ""
    proved: int = 0
    caveats: tuple[str, ...] = ()
    shape: Shape | None = None

    @property
    def default_system(self) -> str:
        """What the template has the system say where nobody does, "" for nothing."""
        return _default_system(self.shape) if self.shape is not None else ""


def translate(template: ChatTemplate, bos: str, render: Ask = render_each) -> Translation:
    """Derive Ollama's template and prove it on conversations that it was not derived from.

    `bos` is what the tokenizer puts before every text, "" for nothing: Ollama's template must not put it there again.
    """
    try:
        texts = ask(template, bos, render)
    except InputError as error:
        return Translation(None, error.message)
    first = marked()[0]
    if not any(talk in texts.found for talk in marked()):
        if texts.frozen:
            return Translation(None, f"it writes today's date, and in a form that Ollama's templates cannot ({DATES})")
        return Translation(None, f"it refuses even one message of the user: {texts.refused.get(first, 'no text')}")
    try:
        shape = _shape(texts)
        written = go_template(shape)
    except ShapeError as error:
        shown = f"; seen in {error.talk.named()}" if error.talk is not None else ""
        return Translation(None, f"{error}{shown}")
    parsed = parse(written)
    proof = prove(parsed, texts, (*marked(), *later_systems(), *plain(), *special()))
    by_case = first_of_each_case(proof.differ)
    if "" in by_case:
        return Translation(None, by_case[""].words())
    return Translation(written, "", proof.same, tuple(_caveats(texts, proof)), shape)


def _shape(texts: Texts) -> Shape:
    found = {talk: texts.found[talk] for talk in marked() if talk in texts.found}
    more = {talk: texts.found[talk] for talk in later_systems() if talk in texts.found}
    return recover(found, more)


def _caveats(texts: Texts, proof: Proof) -> Sequence[str]:
    said = [
        f"{CASES[case]}: {difference.words()}"
        for case, difference in first_of_each_case(proof.differ).items()
        if case in CASES
    ]
    if texts.merges:
        said.append("the chat template refuses messages of the system: they go before the user's first message")
    if texts.frozen:
        said.append("the chat template writes today's date in a form that Ollama's cannot: it has its default date")
    if texts.dated:
        said.append("it asks Ollama for today's date, which needs Ollama 0.11 or later")
    return said


def _default_system(shape: Shape) -> str:
    first, said = shape.gaps.get((START, USER)), shape.gaps.get((START, SYSTEM))
    after = shape.gaps.get((SYSTEM, USER))
    if not (isinstance(first, str) and isinstance(said, str) and isinstance(after, str)):
        return ""
    fits = first.startswith(said) and first.endswith(after) and len(first) > len(said) + len(after)
    return first[len(said) : len(first) - len(after)] if fits else ""

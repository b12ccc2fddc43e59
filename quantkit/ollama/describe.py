"""The Modelfile of a GGUF file, and what a user should know of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quantkit.calibration.text.templates import render_each
from quantkit.consumers.refusals_ollama import RENDERED
from quantkit.ollama.asking import Ask
from quantkit.ollama.header import Header
from quantkit.ollama.modelfile import Modelfile, keeps, keeps_line
from quantkit.ollama.stops import Stops, stops
from quantkit.ollama.translate import Translation, translate
from quantkit.records import record

WITHOUT_TEMPLATE = (
    "Ollama 0.30 and later render conversations by the chat template in the file; older ones take the one of their own "
    "templates that is most alike, or pass prompts as they are"
)
TOOLS = "tools and reasoning: Ollama 0.30 and later use the chat template in the file for them, older ones do without"


@record
class Described:
    """A Modelfile, the translation that its template is of, and sentences for the user."""

    modelfile: Modelfile
    translation: Translation | None
    notes: tuple[str, ...]


def describe(
    header: Header, origin: tuple[str, ...], adapter: str | None = None, render: Ask = render_each
) -> Described:
    """The Modelfile of a file with this header. `origin` is what FROM names, `adapter` what ADAPTER does.

    The chat template runs in its sandbox (`render`). One that cannot be translated leaves TEMPLATE out, and a note says
    why and what will happen.
    """
    translation = translate(header.template, header.bos, render) if header.chat_template else None
    if translation and translation.template and not keeps(translation.template):
        translation = replace(translation, template=None, why="a Modelfile cannot hold some of its characters")
    written = translation.template if translation else None
    asked = Stops(()) if header.embeds else stops(header, translation.shape if translation else None)
    system = translation.default_system if translation else ""
    modelfile = Modelfile(
        origin=origin,
        adapter=adapter,
        template=written,
        system=system if system and keeps(system) else None,
        stops=tuple(stop for stop in asked.texts if keeps_line(stop)),
        parameters={} if header.embeds else header.sampling,
        license=header.license if header.license and keeps(header.license) else None,
        said=tuple(_said(header, translation)),
    )
    return Described(modelfile, translation, tuple(_notes(header, translation, asked)))


def _said(header: Header, translation: Translation | None) -> Iterator[str]:
    if translation is not None and translation.template is not None:
        yield f"TEMPLATE renders {translation.proved} conversations as the model's own chat template does"
    if header.context:
        yield f"The model takes up to {header.context:,} tokens; Ollama's own num_ctx is left as it is"


def _notes(header: Header, translation: Translation | None, asked: Stops) -> Iterator[str]:
    if translation is None:
        if header.unreadable:
            yield f"no TEMPLATE: the chat template is not UTF-8; {WITHOUT_TEMPLATE}"
        elif not header.embeds and header.kind == "model":
            yield "the file has no chat template: Ollama passes prompts as they are"
        return
    if translation.template is None:
        yield f"no TEMPLATE, the chat template cannot be put in Ollama's terms: {translation.why}"
        yield WITHOUT_TEMPLATE
    yield from translation.caveats
    if translation.template is not None and header.architecture in RENDERED:
        yield f"Ollama renders conversations of {header.architecture} by code of its own, whatever TEMPLATE says"
    elif translation.template is not None and any(
        word in header.chat_template for word in ("tools", "tool_call", "</think>")
    ):
        yield TOOLS
    for token in asked.structural:
        yield f'"{token}" ends generation by the file, and is no stop of its own: messages begin with it'

"""Chat templates to translate: real ones where they lie, and a renderer in this process, which is faster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_folders import REALITY

from quantkit.calibration.text import template_process
from quantkit.calibration.text.templates import ChatTemplate, Rendered

LLAMA_CPP = Path(__file__).parents[2] / ".reference" / "llama.cpp" / "models" / "templates"


@dataclass(frozen=True)
class AtHand:
    """A published template: of which model, and the special tokens that it may name."""

    name: str
    template: ChatTemplate

    @property
    def bos(self) -> str:
        return self.template.tokens.get("bos_token", "")


def in_process(
    template: ChatTemplate, conversations: Sequence[Sequence[Mapping[str, object]]], clocks: Sequence[str | None]
) -> list[Rendered]:
    """As `render_each`, in this process: for templates that are known to be harmless."""
    work = {"template": template.source, "tokens": dict(template.tokens), "text_bytes": 1 << 24}
    answers = template_process.each({**work, "conversations": conversations, "each": clocks})
    return [Rendered(answer.get("text"), answer.get("error", "")) for answer in answers]


def real_templates() -> list[AtHand]:
    """Those of real checkpoints and of llama.cpp's collection, as far as they are at hand."""
    found = []
    for folder in sorted(REALITY.iterdir()) if REALITY.is_dir() else ():
        settings = _json(folder / "tokenizer_config.json")
        source = _source(folder, settings)
        if source:
            found.append(AtHand(folder.name, ChatTemplate(source, _tokens(settings))))
    for path in sorted(LLAMA_CPP.glob("*.jinja")):
        found.append(
            AtHand(path.stem, ChatTemplate(path.read_text("utf-8"), {"bos_token": "<s>", "eos_token": "</s>"}))
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _source(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    said = settings.get("chat_template")
    if isinstance(said, list):
        said = next((each["template"] for each in said if each["name"] == "default"), None)
    return said or _json(folder / "chat_template.json").get("chat_template")


def _tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    values = {key: settings.get(key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in values.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}

"""Is a LoRA adapter merged into the model that it was trained on? By names: nothing else of an adapter says it.

What adapter_config.json names is a repository of the Hub, a bare name of one, or a path, which names no model. A source
is known by its repository, even where only the Hub's cache says it; else by the name of its folder or file where that
tells a size as names of models do ("8B"), and by `_name_or_path` of its config.json. Owners, case and separators do not
count, nor do words at the end that say how weights are stored: who trains on "org/Model-8B-bnb-4bit" trains "Model-8B".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quantkit.errors import InputError
from quantkit.events import Sink, Warned
from quantkit.families.naming import ENCODING, SIZE
from quantkit.source.adapter import Adapter
from quantkit.source.adapter_config import ADAPTER_CONFIG
from quantkit.source.base import Checkpoint
from quantkit.source.folder import CACHED_REPO
from quantkit.source.merged import MergedCheckpoint
from quantkit.untrusted import listed, shown

CODE = "adapter-base"
KEY = "base_model_name_or_path"
HUB_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
REVISION = re.compile(r"@[^/@]*\Z")
STORED = re.compile(  # the last word of a name that says how weights are stored
    r"hf|gguf|mlx|bnb|gptq|awq|unsloth|dynamic|quantized|[48]-?bits?|nf4|int[48]|fp[48]|w\d+a\d+|w\d+g\d+|\d+g",
    re.IGNORECASE,
)
SEPARATORS = re.compile(r"[-_. ]+")


def require_base(found: Checkpoint, emit: Sink, *, allow_other: bool) -> None:
    """Raise InputError for an adapter that was trained on a model of another name than the one that it is merged into;
    with `allow_other` that is a warning. So is a name that cannot be told. Closes the checkpoint where it fails."""
    if not isinstance(found, MergedCheckpoint):
        return
    for adapter in found.adapters:
        other = _other(adapter, found.base)
        if other is None:
            continue
        what, known = other
        if known and not allow_other:
            found.close()
            hint = f"give {shown(str(adapter.config.base))} as the source; --allow-other-base merges it all the same"
            raise InputError(f"{what}, another model", path=ADAPTER_CONFIG, key=KEY, hint=hint)
        emit(Warned(CODE, what if known else f"{what}: whether that is the same model, nothing says"))


def _other(adapter: Adapter, base: Checkpoint) -> tuple[str, bool] | None:
    """In words that the two names differ, and whether both are names of models; None where they are alike."""
    said, here = adapter.config.base, shown(base.repo or base.name)
    if said is None:
        return f"{ADAPTER_CONFIG} of {shown(adapter.name)} does not name its model, the source is called {here}", False
    trained = _repository(said)
    named = list(_names(base))
    alike = [base.repo] if base.repo else [base.name, *named]
    if any(_spellings(trained or said) & _spellings(name) for name in alike):
        return None
    called = listed([shown(name) for name in named]) if named else here
    what = f"adapter {shown(adapter.name)} was trained on {shown(said)}, the source is {called}"
    return what, trained is not None and bool(named)


def _names(base: Checkpoint) -> Iterator[str]:
    """What a source is surely called."""
    if base.repo:
        yield base.repo
        return
    if any(SIZE.fullmatch(word) and word[0].isdigit() for word in SEPARATORS.split(base.name)):
        yield base.name
    said = base.config.get("_name_or_path")
    if isinstance(said, str) and "/" in said and (name := _repository(said)):
        yield name


def _repository(said: str) -> str | None:
    """The repository of the Hub that a name means, without its revision; None for a path."""
    for part in re.split(r"[/\\]", said):
        if cached := CACHED_REPO.fullmatch(part):
            return f"{cached['owner']}/{cached['name']}"
    name = REVISION.sub("", said)
    return name if HUB_NAME.fullmatch(name) else None


def _spellings(name: str) -> set[str]:
    """A name to compare: without owner, case and how weights are stored; with and without an owner before it again."""
    path = re.split(r"[/\\]", name.rstrip("/\\"))
    words = path[-1].split("-")
    while len(words) > 1 and (STORED.fullmatch(words[-1]) or ENCODING.fullmatch(words[-1])):
        words.pop()
    plain = "-".join(SEPARATORS.split("-".join(words).lower()))
    owner = SEPARATORS.split(path[-2].lower())[0] if len(path) > 1 else ""
    return {plain, plain.removeprefix(f"{owner}-")} if owner else {plain}

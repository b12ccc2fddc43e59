"""Which token begins and ends a text, and whether the tokenizer puts it there by itself.

Checkpoints say it in four places: the post-processor of tokenizer.json, the names in tokenizer_config.json, its
`add_*_token` flags, and the ids in config.json. What counts, and in which order, is the reference converter's choice
(gguf-py/gguf/vocab.py, SpecialVocab), corner cases included: files written by the two must not differ in where a
text begins. Beyond the reference, which looks names up in tokenizer.json alone, a name that is not there is looked up
in the vocabulary that is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.files import MAX_TOKENS, TOKENIZER_JSON, Json, bad, is_index, token_text

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
ID_KEYS = {  # kind -> key below tokenizer.ggml, as llama.cpp spells it; other kinds have none
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
BY_TEXT = frozenset({"bos", "eos", "sep", "pad", "cls", "mask", "eot", "eom"})  # kinds looked up in the vocabulary too
ADD_KEYS = {"bos": "add_bos_token", "eos": "add_eos_token", "sep": "add_sep_token"}


@record
class SpecialTokens:
    """Ids by kind, and by kind whether the tokenizer adds that token; a kind of which nothing is said is missing."""

    ids: Mapping[str, int]
    adds: Mapping[str, bool]
    warnings: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[KeyValue, ...]:
        """The entries below `tokenizer.ggml`, in the order in which they were found."""
        ids = (KeyValue(f"tokenizer.ggml.{ID_KEYS[k]}", "u32", v) for k, v in self.ids.items() if k in ID_KEYS)
        adds = (KeyValue(f"tokenizer.ggml.{ADD_KEYS[k]}", "bool", v) for k, v in self.adds.items() if k in ADD_KEYS)
        return (*ids, *adds)


@dataclass
class _Found:
    """What has been found so far, while the places are read in turn."""

    names: dict[str, Json]  # tokenizer_config.json; names found elsewhere are filled in
    has_settings: bool
    kinds: tuple[str, ...]
    adds: dict[str, bool] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(("special-token", message))


def find_special_tokens(
    raw: Mapping[str, Json] | None,
    settings: Mapping[str, Json],
    config: Mapping[str, Json],
    n_tokens: int,
    kinds: tuple[str, ...] = KINDS,
    texts: Mapping[str, int] | None = None,
) -> SpecialTokens:
    """Find the special tokens of a vocabulary of `n_tokens`, whose tokens have the ids `texts`, if given.

    `raw` is the parsed tokenizer.json (None: there is none), `settings` tokenizer_config.json ({}: none or empty) and
    `config` config.json as it is. Ids outside the vocabulary become warnings: llama.cpp would ignore them.
    """
    found = _Found(dict(settings), bool(settings), kinds)
    if raw:
        _read_post_processor(raw.get("post_processor"), found)
    if settings:
        _read_names(raw, found, n_tokens)
    _read_texts(found, config, texts or {})
    text = config.get("text_config")
    for kind in found.kinds:
        index = config.get(f"{kind}_token_id")
        if index is None and isinstance(text, dict):
            index = text.get(f"{kind}_token_id")
        _set_id(found, kind, index, n_tokens)
    return SpecialTokens(found.ids, found.adds, tuple(found.warnings))


def _set_id(found: _Found, kind: str, index: Json, n_tokens: int) -> None:
    if isinstance(index, bool) or not isinstance(index, int):
        return
    if is_index(index, n_tokens):
        found.ids.setdefault(kind, index)
    else:
        found.warn(f"the {kind} token has id {index}, outside the vocabulary of {n_tokens:,}; left out")


def _read_names(raw: Mapping[str, Json] | None, found: _Found, n_tokens: int) -> None:
    """Flags and names of tokenizer_config.json; a name counts if it is an added token of tokenizer.json."""
    entries = (raw or {}).get("added_tokens")
    ids: dict[Json, Json] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            ids.setdefault(entry["content"], entry.get("id"))
    for kind in found.kinds:
        says = found.names.get(f"add_{kind}_token")
        if isinstance(says, bool) and found.adds.setdefault(kind, says) != says:
            found.warn(f"add_{kind}_token is {says}, but the post-processor of {TOKENIZER_JSON} decides otherwise")
        name = found.names.get(f"{kind}_token")
        content = name.get("content") if isinstance(name, dict) else name
        if isinstance(content, str):
            _set_id(found, kind, ids.get(content), n_tokens)


def _read_texts(found: _Found, config: Mapping[str, Json], texts: Mapping[str, int]) -> None:
    """Names that are no added tokens of tokenizer.json, by their text.

    A list of several EOS in config.json says more than one name can: llama.cpp finds these by their texts itself.
    """
    for kind in found.kinds:
        text = token_text(found.names.get(f"{kind}_token"))
        if kind in BY_TEXT and text is not None and text in texts and not _several(config, kind):
            found.ids.setdefault(kind, texts[text])


def _several(config: Mapping[str, Json], kind: str) -> bool:
    places = (config, config.get("text_config"))
    return any(isinstance(place, dict) and isinstance(place.get(f"{kind}_token_id"), list) for place in places)


def special_map_tokens(
    special_map: Mapping[str, Json], settings: Mapping[str, Json], config: Mapping[str, Json], texts: Mapping[str, int]
) -> dict[str, int]:
    """Ids by kind of what special_tokens_map.json names; kinds of which tokenizer_config.json speaks are left out."""
    found = {}
    for kind in KINDS:
        key = f"{kind}_token"
        text = token_text(special_map.get(key))
        if kind not in BY_TEXT or key in settings or text is None or _several(config, kind):
            continue
        if text in texts:
            found[kind] = texts[text]
    return found


def _read_post_processor(section: Json, found: _Found) -> None:
    for alias, kind in (("cls", "bos"), ("sep", "eos")):
        if not found.names.get(f"{kind}_token") and found.names.get(f"{alias}_token") and found.has_settings:
            found.names[f"{kind}_token"] = found.names[f"{alias}_token"]
    if section is None:
        return
    if not isinstance(section, dict):
        raise bad(TOKENIZER_JSON, "post_processor", section, "an object")
    steps = section.get("processors", [section])
    if not isinstance(steps, list):
        raise bad(TOKENIZER_JSON, "post_processor.processors", steps, "a list")
    for step in steps:
        if not isinstance(step, dict):
            raise bad(TOKENIZER_JSON, "post_processor.processors", step, "an object")
        match step.get("type"):
            case "ByteLevel":
                found.adds.setdefault("bos", False)
                found.adds.setdefault("eos", False)
            case "RobertaProcessing":
                _read_roberta(step, found)
            case "TemplateProcessing":
                _read_template(step, found)


def _read_roberta(step: Mapping[str, Json], found: _Found) -> None:
    found.adds.update(bos=True, eos=True, sep=True)
    for kind, other in (("cls", "bos"), ("sep", "eos")):
        if not found.names.get(f"{kind}_token") and found.has_settings:
            pair = step.get(kind)
            known = found.names.get(f"{other}_token")
            found.names[f"{kind}_token"] = pair[0] if isinstance(pair, list) and pair else known


def _read_template(step: Mapping[str, Json], found: _Found) -> None:
    """Does the template for one text begin or end with a special token, and that for two put one between them?"""
    single, pair = _template(step, "single"), _template(step, "pair")
    first = _special(single[0]) if len(single) > 1 else None
    last = _special(single[-1]) if len(single) > 1 else None
    if first:
        _leading(first, found)
    if last:
        _trailing(last, found)
    start = 1 if first and pair and _special(pair[0]) == first else 0
    stop = len(pair) - 1 if last and pair and _special(pair[-1]) == last else len(pair)
    _separator(pair[start:stop], last, found)


def _template(step: Mapping[str, Json], name: str) -> list[Mapping[str, Json]]:
    items = step.get(name, [])
    if not isinstance(items, list):
        raise bad(TOKENIZER_JSON, f"post_processor.{name}", items, "a list of objects")
    objects = [item for item in items if isinstance(item, dict)]
    if len(objects) != len(items) or len(items) > MAX_TOKENS:
        raise bad(TOKENIZER_JSON, f"post_processor.{name}", items, "a list of objects")
    return list(objects)


def _special(item: Mapping[str, Json], what: str = "SpecialToken") -> str | None:
    entry = item.get(what)
    name = entry.get("id") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name else None


def _leading(first: str, found: _Found) -> None:
    if first not in _names(found, "bos", "cls"):
        for kind in ("bos", "cls"):
            if not found.names.get(f"{kind}_token"):
                found.names[f"{kind}_token"] = first
    found.adds["bos"] = first in _names(found, "bos", "cls")
    if not found.adds["bos"]:
        found.warn(f'the post-processor puts "{first}" first, which is neither the BOS nor the CLS token')


def _trailing(last: str, found: _Found) -> None:
    """A last token other than EOS becomes EOS; the former EOS ends a turn (eot) or a message (eom) from then on."""
    eos = found.names.get("eos_token")
    if found.has_settings and last != eos:
        former = next((kind for kind in ("eot", "eom") if kind not in found.kinds), None)
        if former is None:
            found.warn(f'the post-processor puts "{last}" last, which replaces the EOS token')
        else:
            found.kinds = (*found.kinds, former)
            found.names[f"{former}_token"] = eos
    found.names["eos_token"] = last
    found.adds["eos"] = True


def _separator(middle: list[Mapping[str, Json]], last: str | None, found: _Found) -> None:
    """`middle` is the template for two texts without its first and last special token: A, separators, B."""
    if len(middle) < 3 or (_special(middle[0], "Sequence"), _special(middle[-1], "Sequence")) != ("A", "B"):
        return
    between = [_special(item) for item in middle[1:-1]]
    ends = [name for name in _names(found, "sep", "eos") if name]
    one = between[0] in ends and not last
    two = len(between) == 2 and between[1] in ends
    found.adds["sep"] = one or two
    if found.adds["sep"] and not found.names.get("sep_token") and found.has_settings:
        found.names["sep_token"] = found.names.get("eos_token")


def _names(found: _Found, *kinds: str) -> list[Json]:
    return [found.names.get(f"{kind}_token") for kind in kinds]

"""Every `tokenizer.*` key against the reference converter, run on the same folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_kinds import KINDS, Kind, added, bos_template, config, dumped, kind

from quantkit.tokenizer.read import read_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.reference]

TYPES = {"string": "STRING", "u32": "UINT32", "i32": "INT32", "f32": "FLOAT32", "bool": "BOOL"}
PRE = "tokenizer.ggml.pre"
NAMES = "tokenizer.chat_templates"
SCORES = "tokenizer.ggml.scores"
STAND_IN = "the pre-tokenizer of a vocabulary that the reference does not know"


def settings(base: str, **changes: Any) -> Kind:
    """A kind with other entries in tokenizer_config.json; None removes an entry."""
    made = kind(base)
    merged = {**made.parsed("tokenizer_config.json"), **changes}
    return made.but(tokenizer_config__json=dumped({k: v for k, v in merged.items() if v is not None}))


def post_processor(base: str, section: Callable[[Kind], Any], **changes: Any) -> Kind:
    made = settings(base, **changes)
    return made.but(tokenizer__json=dumped({**made.parsed("tokenizer.json"), "post_processor": section(made)}))


def token_ids(base: str, **ids: Any) -> Kind:
    made = kind(base)
    return made.but(config__json=dumped({**made.config, **ids}))


def token(text: str) -> dict[str, Any]:
    return {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": False, "special": True}


def template(single: list[str], pair: list[str]) -> Callable[[Kind], dict[str, Any]]:
    """A post-processor from token names; A and B stand for the texts."""

    def item(name: str) -> dict[str, Any]:
        return {"Sequence" if name in {"A", "B"} else "SpecialToken": {"id": name, "type_id": 0}}

    def build(made: Kind) -> dict[str, Any]:
        raw = made.parsed("tokenizer.json")
        ids = {**raw["model"]["vocab"], **{t["content"]: t["id"] for t in raw["added_tokens"]}}
        names = {name for name in (*single, *pair) if name not in {"A", "B"}}
        return {
            "type": "TemplateProcessing",
            "single": [item(name) for name in single],
            "pair": [item(name) for name in pair],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names},
        }

    return build


def roberta(made: Kind) -> dict[str, Any]:
    ids = {t["content"]: t["id"] for t in made.parsed("tokenizer.json")["added_tokens"]}
    cls, sep = ["<|im_start|>", ids["<|im_start|>"]], ["<|im_end|>", ids["<|im_end|>"]]
    return {"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": True, "add_prefix_space": False}


def rows(base: str, count: int, **changes: Any) -> Kind:
    made = kind(base)
    return made.but(config__json=dumped({**made.config, "vocab_size": count, **changes}))


def more_added(base: str) -> Kind:
    """Tokens that only tokenizer_config.json knows: they follow those of tokenizer.json."""
    made = kind(base)
    start = made.parsed("tokenizer.json")["added_tokens"][-1]["id"] + 1
    listed = dict(made.parsed("tokenizer_config.json").get("added_tokens_decoder", {}))
    listed[str(start)] = {k: v for k, v in added(0, "<|late|>").items() if k != "id"}
    listed[str(start + 1)] = {k: v for k, v in added(0, "late and plain", special=False).items() if k != "id"}
    return settings(base, added_tokens_decoder=listed, mask_token="<|mask|>")


def look_special(base: str) -> Kind:
    made = kind(base)
    raw = made.parsed("tokenizer.json")
    start = raw["added_tokens"][-1]["id"] + 1
    names = ("<|quiet|>", "<｜wide｜>", "<unused3>", "[@BOS@]", "▁plain▁", "ordinary", "cafÃ©", "thÃ©")
    raw["added_tokens"] += [
        added(start + n, name, special=False, normalized=n % 2 == 0) for n, name in enumerate(names)
    ]
    return made.but(
        tokenizer__json=dumped(raw), tokenizer_config__json=b'{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )


def named_templates() -> Kind:
    made = settings("llama3", chat_template=None)
    return made.but(
        chat_template__jinja=b"default {{ x }}\r\n", **{"additional_chat_templates/tool-use__jinja": b"tools"}
    )


def templates_in_files() -> Kind:
    """Names that keys cannot have, and contents that a text mode would change."""
    texts = {"tool-use": b"a\r\nb\rc\n", "rag 2": "\u00e4{{ x }}\u2028".encode(), "\u00e9t\u00e9": b"d", "v1.5": b"e"}
    files = {f"additional_chat_templates/{name}.jinja": text for name, text in texts.items()}
    made = settings("llama3", chat_template=None).but(chat_template__jinja=b"default\r\n")
    return Kind(made.family, made.architecture, {**made.files, **files})


IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
TEMPLATES = [
    {"name": "default", "template": "a"},
    {"name": "tool use", "template": "b"},
    {"name": "rag", "template": "c"},
]
FILES_OF_TEMPLATES = "templates in files of their own"
CASES: dict[str, Callable[[], Kind]] = {
    FILES_OF_TEMPLATES: templates_in_files,
    "names as objects": lambda: settings("llama3", bos_token=token("<|begin_of_text|>"), eos_token=token("<|eot_id|>")),
    "names unknown to the tokenizer": lambda: settings("llama_spm", pad_token="<nowhere>", sep_token="</s>"),
    "no names": lambda: settings("llama_spm", bos_token=None, eos_token=None, unk_token=None),
    "no settings": lambda: kind("llama_spm").but(tokenizer_config__json=None),
    "empty settings": lambda: kind("llama_spm").but(tokenizer_config__json=b"{}"),
    "flags": lambda: settings("llama_spm", add_bos_token=False, add_eos_token=True),
    "flags without a tokenizer.json": lambda: settings("gemma2", add_bos_token=False, add_eos_token=True),
    "flag against post-processor": lambda: settings("llama3", add_bos_token=False),
    "prefix space": lambda: settings("llama_spm", add_prefix_space=True),
    "no prefix space": lambda: settings("smollm", add_prefix_space=False),
    "ids in config": lambda: token_ids("llama_spm", pad_token_id=0, sep_token_id=5, mask_token_id=7, cls_token_id=9),
    "ids in text_config": lambda: token_ids("gemma3", text_config={"pad_token_id": 3, "vocab_size": 1408}),
    "lists of ids": lambda: token_ids("llama_spm", eos_token_id=[1, 2], bos_token_id=None),
    "eos at the end": lambda: post_processor("qwen2", template(["A", IM[1]], ["A", IM[1], "B", IM[1]])),
    "other eos at the end": lambda: post_processor("qwen2", template(["A", IM[2]], ["A", "B", IM[2]])),
    "eos as object at the end": lambda: post_processor(
        "qwen2", template(["A", IM[1]], ["A", "B", IM[1]]), eos_token=token(IM[1])
    ),
    "both ends": lambda: post_processor(
        "qwen2", template([IM[0], "A", IM[1]], [IM[0], "A", IM[1], IM[0], "B", IM[1]]), bos_token=IM[0]
    ),
    "unnamed at the front": lambda: post_processor("qwen2", template([IM[0], "A"], [IM[0], "A", "B"])),
    "other at the front": lambda: post_processor("qwen2", template([IM[0], "A"], [IM[0], "A", "B"]), bos_token=IM[2]),
    "cls at the front": lambda: post_processor(
        "qwen2", template([IM[0], "A", IM[1]], [IM[0], "A", IM[1], "B", IM[1]]), cls_token=IM[0], sep_token=IM[1],
        eos_token=None, bos_token=None,
    ),
    "separators": lambda: post_processor("qwen2", template(["A"], ["A", IM[1], "B"])),
    "two separators": lambda: post_processor("qwen2", template(["A", IM[1]], ["A", IM[1], IM[1], "B", IM[1]])),
    "other separators": lambda: post_processor("qwen2", template(["A"], ["A", IM[0], "B"]), sep_token=IM[0]),
    "only the pair": lambda: post_processor("qwen2", template(["A"], [IM[0], "A", IM[1], "B", IM[1]])),
    "roberta": lambda: post_processor("qwen2", roberta),
    "roberta with names": lambda: post_processor("qwen2", roberta, cls_token=IM[0], sep_token=IM[2], bos_token=IM[0]),
    "sequence": lambda: post_processor(
        "qwen2", lambda made: {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            bos_template(IM[0], made.parsed("tokenizer.json")["model"]["vocab"].get(IM[0], 1501)),
        ]}, bos_token=IM[0],
    ),
    "no post-processor": lambda: post_processor("qwen2", lambda made: None, add_bos_token=None),
    "template without settings": lambda: post_processor(
        "llama_spm", template(["<s>", "A", "</s>"], ["<s>", "A", "</s>", "B", "</s>"])
    ).but(tokenizer_config__json=None),
    "added tokens that look special": lambda: look_special("qwen2"),
    "padded": lambda: rows("qwen2", 1900),
    "padded sentencepiece": lambda: rows("llama_spm", 2100),
    "code llama": lambda: rows("llama_spm", 32016),
    "granite": lambda: rows("smollm", 49152),
    "granite with a BOS": lambda: post_processor(
        "smollm", template([IM[0], "A"], [IM[0], "A", "B"])
    ).but(config__json=rows("smollm", 49152).files["config.json"]),
    "tokens in the settings alone": lambda: more_added("qwen2"),
    "added_tokens.json": lambda: kind("llama_spm").but(
        added_tokens__json=dumped({"<extra>": 2049, "▁<more>": 2050, "beyond": 9999}),
        config__json=dumped({**kind("llama_spm").config, "vocab_size": 2060}),
    ),
    "replaced pieces": lambda: settings("llama_spm", added_tokens_decoder={
        "700": {"content": "<|tool|>", "special": False}, "701": {"content": "▁plain▁", "special": False},
        "702": {"content": "<unused7>", "special": False}, "3000": {"content": "<far>", "special": True},
    }),
    "template": lambda: settings("llama_spm", chat_template="{{ messages }}\r\nä"),
    "empty template": lambda: settings("llama_spm", chat_template=""),
    "list of templates": lambda: settings("llama_spm", chat_template=TEMPLATES),
    "list without default": lambda: settings("llama_spm", chat_template=TEMPLATES[1:]),
    "template in chat_template.jinja": lambda: settings("llama3", chat_template=None).but(
        chat_template__jinja=b"j\r\n{{"
    ),
    "template in chat_template.json": lambda: settings("llama3", chat_template=None).but(
        chat_template__json=dumped({"chat_template": "from json"})
    ),
    "template in two files": lambda: settings("llama3", chat_template=None).but(
        chat_template__jinja=b"this one", chat_template__json=dumped({"chat_template": "not this one"})
    ),
    "template in the settings and in chat_template.json": lambda: kind("llama3").but(
        chat_template__json=dumped({"chat_template": "not this one"})
    ),
    "more templates": named_templates,
}  # fmt: skip

# Where quantkit differs, and why.
BY_NAME = {"tokens in the settings alone": ("tokenizer.ggml.mask_token_id",)}  # the reference does not look it up
MADE_SCORES = {"tinyllama_json", "mistral_json", "llama_json_v5"}  # real scores from merges, and padding


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the reference writes for every kind and case."""
    base = tmp_path_factory.mktemp("folders")
    kinds = {**{name: kind(name) for name in KINDS}, **{name: make() for name, make in CASES.items()}}
    jobs = [[str(made.write(base / name.replace(" ", "_"))), STAND_IN] for name, made in kinds.items()]
    program = Path(__file__).with_name("reference_vocabulary.py")
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(kinds, json.loads(done.stdout), strict=True))


def entries(made: Kind) -> dict[str, list[Any]]:
    found = read_tokenizer(made.read_file, made.config, made.rules, names=tuple(made.files)).metadata
    return {
        e.key: [("ARRAY " if e.array else "") + TYPES[e.kind], list(e.value) if e.array else e.value] for e in found  # type: ignore[arg-type]
    }  # fmt: skip


def expected(written: dict[str, dict[str, Any]], name: str) -> dict[str, list[Any]]:
    answer = written[name]
    assert "metadata" in answer, answer
    return dict(answer["metadata"])


@pytest.mark.parametrize("name", [*sorted(set(KINDS) - MADE_SCORES), *CASES])
def test_every_key_is_the_references(written: dict[str, dict[str, Any]], name: str) -> None:
    found = entries(CASES[name]() if name in CASES else kind(name))
    wanted = expected(written, name)
    for key in BY_NAME.get(name, ()):
        assert key not in wanted
        del found[key]
    if wanted[PRE][1] == STAND_IN:
        wanted[PRE] = found[PRE]
    if NAMES in wanted:
        wanted[NAMES][1].sort()  # a set of Python's in the reference
    assert {key: found.get(key) for key in wanted} == wanted
    assert found == wanted
    assert in_order(found, name) == in_order(wanted, name)


def in_order(metadata: dict[str, list[Any]], name: str) -> list[str]:
    """The keys; of templates in files one name for all, because the reference takes them as the folder lists them."""
    named = "tokenizer.chat_template."
    return [named if name == FILES_OF_TEMPLATES and key.startswith(named) else key for key in metadata]


@pytest.mark.parametrize("name", sorted(MADE_SCORES))
def test_scores_and_padding_are_what_differs_without_a_sentencepiece_model(
    written: dict[str, dict[str, Any]], name: str
) -> None:
    found, wanted = entries(kind(name)), expected(written, name)
    count = len(wanted["tokenizer.ggml.tokens"][1])
    assert set(wanted.pop(SCORES)[1]) == {-1000.0}
    assert len(set(found.pop(SCORES)[1])) > 1000
    rows = len(found["tokenizer.ggml.tokens"][1])
    padding = {"tokenizer.ggml.tokens": [f"[PAD{n}]" for n in range(count, rows)]}
    padding["tokenizer.ggml.token_type"] = [5] * (rows - count)
    for key, tail in padding.items():
        assert found[key][1][count:] == tail
        found[key][1] = found[key][1][:count]
    assert found == wanted


JINJA_LOSES = {
    "older template": "{{ old }}", "null": "null", "empty": "", "no settings": None,
}  # fmt: skip


def _jinja_loses(said: str | None) -> Kind:
    if said is None:
        return kind("llama_spm_model_only").but(chat_template__jinja=b"{{ new }}")
    made = settings("llama3", chat_template=said)
    if said == "null":
        raw = {**made.parsed("tokenizer_config.json"), "chat_template": None}
        made = made.but(tokenizer_config__json=dumped(raw))
    return made.but(chat_template__jinja=b"{{ new }}")


@pytest.mark.parametrize("name", JINJA_LOSES)
def test_chat_template_jinja_wins_as_in_transformers(name: str) -> None:
    """The reference takes tokenizer_config.json's, whatever it is."""
    assert entries(_jinja_loses(JINJA_LOSES[name]))["tokenizer.chat_template"] == ["STRING", "{{ new }}"]


def test_user_defined_pieces_keep_their_type(tmp_path: Path) -> None:
    """The reference calls them normal unless tokenizer_config.json lists them; llama.cpp then never finds them."""
    made = settings("gemma2", added_tokens_decoder=None)
    types = entries(made)["tokenizer.ggml.token_type"][1]
    tokens = entries(made)["tokenizer.ggml.tokens"][1]
    assert types[tokens.index("<table>")] == 4
    assert types[tokens.index("   ")] == 4


def test_a_prefix_that_the_sentencepiece_model_does_not_put_is_not_put() -> None:
    """The reference leaves llama.cpp's default, a space before text."""
    made = kind("gemma2")
    llama = Kind("llama", "LlamaForCausalLM", {**made.files, "config.json": config("LlamaForCausalLM", "llama", 1408)})
    assert entries(llama)["tokenizer.ggml.add_space_prefix"] == ["BOOL", False]

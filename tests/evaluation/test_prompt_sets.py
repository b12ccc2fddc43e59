"""Sets of prompts: what ships, what is refused, what expectations mean; jsonschema is the oracle for shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import TINY

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.spec import embedding_rows
from quantkit.calibration.text.templates import ChatTemplate, render
from quantkit.errors import InputError
from quantkit.evaluation.expectations import ExpectationError, answered_number, first_json, parse_expectations
from quantkit.evaluation.prompts import Asked, asked_of, ending_tokens, read_prompts
from quantkit.evaluation.shapes import ShapeError, fits, require_schema
from quantkit.source import open_source

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def prompts(tmp_path: Path, *rows: Any) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def with_template(tmp_path: Path) -> Path:
    folder = tmp_path / "chat"
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return folder


def asked(file: Path | str, model: Path = TINY, length: int = 8, context: int = 0) -> Asked:
    checkpoint = open_source(str(model))
    tokens = model_tokens(checkpoint, embedding_rows(checkpoint))
    return asked_of(read_prompts(str(file)), checkpoint, tokens, length, context)


def test_the_set_that_ships_has_ten_prompts_of_each_kind() -> None:
    found = read_prompts("golden")
    kinds = [prompt.kind for prompt in found.prompts]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("chat", "code", "arithmetic", "json", "recall"), 10
    )
    assert (found.having("json_schema"), found.having("copy"), found.having("number")) == (10, 5, 10)
    assert all(prompt.text for prompt in found.prompts), "models without a chat template continue it"


def test_what_the_set_that_ships_expects_can_be_met() -> None:
    """The example that is written into each prompt's plain text for a model without a template fits its schema."""
    for prompt in read_prompts("golden").prompts:
        for each in prompt.expected:
            if each.kind == "copy":
                assert prompt.text
                wanted = prompt.text.split("\n\nInput: ")[1].removesuffix("\nCopy:")
                assert each.holds is not None
                assert each.holds(f" {wanted}\n")
                assert not each.holds(wanted[:-1])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: list, not an object"),
        ('{"prompt": "a", "prompt": "b"}', "duplicate names: prompt"),
        ({"id": "a", "prompt": "again"}, 'id "a" is that of line 1, too'),
        ({"id": "b"}, "nothing to ask"),
        ({"prompt": "  "}, '"prompt" is no text'),
        ({"prompt": "\ud800"}, '"prompt" is no text'),
        ({"promt": "x"}, 'unknown field "promt"; did you mean "prompt"?'),
        ({"messages": [{"content": "x"}]}, '"messages" is no list of'),
        ({"prompt": "x", "expect": {}}, "expect: it is no object such as"),
        ({"prompt": "x", "expect": {"contain": "y"}}, 'unknown kind "contain"; did you mean "contains"?'),
        ({"prompt": "x", "expect": {"regex": "(?=a)"}}, '"regex": it looks ahead'),
        ({"prompt": "x", "expect": {"regex": "("}}, '"regex": '),
        ({"prompt": "x", "expect": {"json": False}}, '"json" is true'),
        ({"prompt": "x", "expect": {"json_schema": {"type": "strin"}}}, 'did you mean "string"'),
        ({"prompt": "x", "expect": {"json_schema": 3}}, "no schema that is known here"),
        ({"prompt": "x", "expect": {"number": "5"}}, '"number" is a number'),
        ({"prompt": "x", "expect": {"number": True}}, '"number" is a number'),
        ({"prompt": "x", "expect": {"choice": ["a", "b"]}}, '"choice" needs "answer"'),
        ({"prompt": "x", "expect": {"choice": ["a", "a"], "answer": "a"}}, "has a text twice"),
        ({"prompt": "x", "expect": {"choice": ["a"], "answer": "a"}}, "a list of 2 to"),
    ],
)
def test_a_set_that_is_none_names_its_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_prompts(str(prompts(tmp_path, {"id": "a", "prompt": "x"}, row)))
    assert "prompts.jsonl: line 2: " in error.value.message
    assert said in error.value.message


@pytest.mark.parametrize(
    ("data", "said"), [(b"\n\n", "has no prompts"), (b'{"prompt": "\xff"}', "not UTF-8 at byte 12")]
)
def test_files_without_prompts(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_prompts(str(tmp_path / "p.jsonl"))


def test_questions_and_conversations_go_through_the_chat_template(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = prompts(tmp_path, {"prompt": "q", "text": "t"}, {"messages": talk, "text": "t"}, {"text": "raw"})
    found = asked(file, with_template(tmp_path))
    assert [prompt.name for prompt in found.prompts.prompts] == ["line 1", "line 2", "line 3"]
    assert found.texts[1].startswith("<s>[system] s\n[user] u\n")
    assert (found.texts[0].startswith("<s>[user] q\n"), found.texts[2], found.templated) == (True, "raw", 2)
    assert [ids[:2].count(1) for ids in found.ids] == [1, 1, 1], "one token begins a text, whoever writes it"
    assert asked(file).texts == ("t", "t", "raw")


def test_the_template_is_asked_for_a_reply() -> None:
    talk = [[{"role": "user", "content": "q"}]]
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"})
    assert render(template, talk, reply=True) == ["<s>[user] q\n[assistant]\n"]
    assert render(template, talk) == ["<s>[user] q\n"]


def test_prompts_that_a_model_cannot_take(tmp_path: Path) -> None:
    talk = prompts(tmp_path, {"id": "talk", "messages": [{"role": "user", "content": "hello"}]})
    with pytest.raises(InputError, match='prompt "talk" has messages, and the model has no chat template'):
        asked(talk)
    long = prompts(tmp_path, {"id": "long", "text": "word " * 40})
    with pytest.raises(InputError, match=r'prompt "long" has \d+ tokens: with 8 behind it more than the 32'):
        asked(long, context=32)


def test_options_are_split_behind_their_prompt(tmp_path: Path) -> None:
    file = prompts(tmp_path, {"text": "The answer is", "expect": {"choice": [" yes", " no"], "answer": " no"}})
    found = asked(file)
    checkpoint = open_source(str(TINY))
    whole = model_tokens(checkpoint, embedding_rows(checkpoint)).encode("The answer is yes")
    assert (*found.ids[0], *found.options[0][0]) == (1, *whole)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": [1, 106]}}, {1, 106, 2}),
        ({}, {2}),
        ({"generation_config.json": {"eos_token_id": None}}, {2}),
    ],
)
def test_the_tokens_that_end_a_text(tmp_path: Path, said: dict[str, Any], expected: set[int]) -> None:
    folder = with_template(tmp_path)
    for name, body in said.items():
        (folder / name).write_text(json.dumps(body))
    assert ending_tokens(open_source(str(folder))) == expected


@pytest.mark.parametrize(
    ("expect", "yes", "no"),
    [
        ({"contains": ["a", "b"]}, ["xbxa"], ["xa", "AB"]),
        ({"regex": r"^Paris\b"}, ["Paris."], ["in Paris", "paris", "Parisian"]),
        (
            {"json": True},
            [' {"a": 1} and more', "```json\n[1]\n```"],
            ["Sure: {}", '{"a": }', "3", "", "{'a': 1}", "[NaN]"],
        ),
        ({"json_schema": {"type": "array", "minItems": 2}}, ["[1, 2]"], ["[1]", "{}", "[1, 2"]),
        ({"copy": "Zq7-44"}, [" Zq7-44\nInput:", "```\nZq7-44\n```"], ["zq7-44", "The text is Zq7-44"]),
        ({"number": 42}, ["42", "17 + 25 = 42.", " 42\n\nQuestion: 3", "42.0"], ["17", "", "4 2", "the answer\n42"]),
        ({"number": -1234.5}, ["-1,234.5", "\u22121234.5"], ["1234.5"]),
        ({"contains": "a", "regex": "b"}, ["ab"], ["a", "b"]),
    ],
)
def test_what_expectations_mean(expect: dict[str, Any], yes: list[str], no: list[str]) -> None:
    found = parse_expectations(expect)
    for text in (*yes, *no):
        assert all(each.holds(text) for each in found if each.holds) is (text in yes), text


def test_hostile_answers_are_read_in_bounded_time() -> None:
    assert first_json("[" * 200_000) == (False, None)
    assert answered_number("9" * 100_000) is not None
    [each] = parse_expectations({"regex": "(a+)+$"})
    assert each.holds is not None
    assert not each.holds("a" * 50_000 + "b")


SCHEMAS: list[Any] = [
    True,
    {"type": "integer"},
    {"type": ["string", "null"], "minLength": 2, "maxLength": 3},
    {"enum": [1, "a", None, [1], {"a": 1}]},
    {"const": 1},
    {"const": {"a": [True]}},
    {"pattern": "^a+$"},
    {"minimum": 1, "exclusiveMaximum": 3},
    {"properties": {"a": {"type": "number"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
    {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}, "minItems": 1},
    {"uniqueItems": True},
    {"anyOf": [{"type": "string"}, {"minimum": 2}], "not": {"const": "a"}},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
    {"allOf": [{"$ref": "#/$defs/small"}], "$defs": {"small": {"maximum": 2, "type": "number"}}},
    {"properties": {"next": {"$ref": "#"}, "v": {"type": "integer"}}, "required": ["v"]},
]
VALUES: list[Any] = [
    None, True, False, 0, 1, 1.0, 2, 2.5, 3, "", "a", "aa", "aaaa", [], [1], [1, 1.0], [True, 1], ["a"], ["a", 1],
    ["a", "b"], {}, {"a": 1}, {"a": "x"}, {"a": [True]}, {"a": [1]}, {"a": 1, "b": 2}, {"v": 1, "next": {"v": 2}},
    {"v": 1, "next": {"v": "x"}}, {"v": 1, "next": {}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_shapes_fit_as_jsonschema_says(schema: Any) -> None:
    from jsonschema import Draft202012Validator

    require_schema(schema)
    oracle = Draft202012Validator(schema)
    assert [fits(value, schema) for value in VALUES] == [oracle.is_valid(value) for value in VALUES]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "a schema is an object"),
        ({"propertys": {}}, 'did you mean "properties"'),
        ({"type": "text"}, "no type"),
        ({"type": []}, "no type"),
        ({"pattern": "("}, "no pattern"),
        ({"required": "a"}, "is no list"),
        ({"required": [1]}, "no list of names"),
        ({"anyOf": []}, "no list of schemas"),
        ({"properties": []}, "no object"),
        ({"properties": {"a": 3}}, "schema.properties.a is 3"),
        ({"minLength": -1}, "no number"),
        ({"maximum": "1"}, "no number"),
        ({"$ref": "https://example.org/x"}, "of this schema"),
        ({"$ref": "#/$defs/none"}, "of this schema"),
        ({"$defs": []}, "$defs is no object"),
        ({"$defs": {"a": {"typ": 1}}}, "$defs.a"),
    ],
)
def test_schemas_that_are_none(schema: Any, said: str) -> None:
    with pytest.raises(ShapeError) as error:
        require_schema(schema)
    assert said in str(error.value)


def test_schemas_in_circles_and_depths_end() -> None:
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    require_schema(circle)
    assert not fits(1, circle)
    deep: Any = {}
    for _ in range(200):
        deep = {"not": deep}
    with pytest.raises(ExpectationError, match="nested more than"):
        parse_expectations({"json_schema": deep})

"""Chat templates pass through unchanged; what looks like an attack is reported and never run."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_speed import within
from tokenizer_kinds import Kind, dumped, kind

from quantkit.tokenizer.chat_template import ADDITIONAL, find_chat_templates, look_at_template
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ namespace.__init__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ messages|attr('__class__') }}",
    "{{ messages | attr ( '\\x5f\\x5fclass\\x5f\\x5f' ) }}",
    "{{ messages['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ messages['\\u005f\\u005fclass'] }}",
    "{{ messages['__cla' ~ 'ss__'] ~ '__' ~ x }}",
    "{{ x['_' ~ '_' ~ 'class'] }}",
    "{{ x['_' * 2 + 'class'] }}",
    "{{ x['__' + 'class' + '__'] }}",
    "{% include '/etc/passwd' %}",
    "{%- import 'os' as os %}",
    "{% from 'x' import y %}",
    "{% extends 'base' %}",
    "{{ joiner._x }}",
    "{{ url_for.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ messages.mro() }}",
    "{{ '{0.x}'.format_map(y) }}",
    "{{ (messages|map(attribute='__class__')|list) }}",
    "{% set x = messages.__class__ %}{{ x }}",
    "{{ loop.__class__ }}",
    "{{ x.gi_frame.f_globals }}",
    "text {{ fine }} text {% if __import__ %}{% endif %}",
    "{{ open and never closed.__class__ ",
]
BENIGN = [
    "",
    "plain text with __dunder__ and {braces} and | attr",
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% endfor %}",
    "{{- raise_exception('no __system__ role'.upper()) if false else '' }}".replace("__", "_"),
    "{% set ns = namespace(found=false) %}{% set ns.found = true %}",
    "{{ messages | map(attribute='role') | join(', ') }}",
    "{{ '_' ~ name }}".replace("'_' ~", "'a_' ~"),
    "{% macro render(x) %}{{ x }}{% endmacro %}",
]


def read(made: Kind, names: tuple[str, ...] = ()) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules, names=names)


def with_template(template: object) -> Kind:
    made = kind("llama_spm")
    settings = {**made.parsed("tokenizer_config.json"), "chat_template": template}
    return made.but(tokenizer_config__json=dumped(settings))


@pytest.mark.parametrize("template", ATTACKS)
def test_what_reaches_out_of_a_sandbox_is_reported_and_copied(template: str) -> None:
    found = read(with_template(template))
    assert {entry.key: entry.value for entry in found.metadata}["tokenizer.chat_template"] == template
    assert "chat-template" in dict(found.warnings)
    assert "line 1" in dict(found.warnings)["chat-template"]


@pytest.mark.parametrize("template", BENIGN)
def test_ordinary_templates_give_no_warning(template: str) -> None:
    assert list(look_at_template("chat_template", template)) == []


def test_the_line_is_named() -> None:
    [(_, message)] = look_at_template("chat_template", "{{ a }}\n\n{% if b %}\n{{ c.__class__ }}")
    assert "line 4" in message


def test_long_templates_are_reported_and_copied() -> None:
    long = "{{ x }}" * 20_000
    found = read(with_template(long))
    assert {entry.key: entry.value for entry in found.metadata}["tokenizer.chat_template"] == long
    assert "140,000 bytes" in dict(found.warnings)["chat-template"]


ENDLESS = ["{{" * 30_000, "{%" * 30_000, "{{ __" * 10_000, "_" * 60_000, "{{ '" + "_" * 60_000, "{{ ~" + " " * 60_000]


@pytest.mark.parametrize("text", ENDLESS)
def test_looking_takes_no_time_whatever_the_text(text: str) -> None:
    with within(2):
        list(look_at_template("chat_template", text))


def test_named_templates_are_written_under_plain_names() -> None:
    entries = [
        {"name": "default", "template": "d"}, {"name": "tool use/ü", "template": "t"}, {"name": "", "template": "lost"},
        {"name": "none", "template": None},
    ]  # fmt: skip
    found = {entry.key: entry.value for entry in read(with_template(entries)).metadata}
    assert found["tokenizer.chat_template"] == "d"
    assert found["tokenizer.chat_template.tool_use__"] == "t"
    assert found["tokenizer.chat_templates"] == ("tool_use__",)


def test_additional_templates_are_found_by_the_names_of_the_files() -> None:
    made = kind("llama_spm").but(chat_template__jinja=b"main")
    files = {**made.files, f"{ADDITIONAL}tools.jinja": b"with tools", f"{ADDITIONAL}notes.txt": b"no template"}
    made = Kind(made.family, made.architecture, files)
    found = {entry.key: entry.value for entry in read(made, tuple(files)).metadata}
    assert found["tokenizer.chat_template"] == "main"
    assert found["tokenizer.chat_template.tools"] == "with tools"
    assert found["tokenizer.chat_templates"] == ("tools",)
    alone = {entry.key: entry.value for entry in read(made).metadata}
    assert "tokenizer.chat_template.tools" not in alone


def test_a_template_of_another_type_is_left_out_with_a_warning() -> None:
    found = find_chat_templates(lambda name: None, {"chat_template": {"a": 1}}, ())
    assert found.metadata() == ()
    assert "neither text nor a list" in dict(found.warnings)["chat-template"]


WINNERS = {
    "an older one": ({"chat_template": "old"}, b"new", None, "new", "tokenizer_config.json has another"),
    "null in the settings": ({"chat_template": None}, b"new", None, "new", ""),
    "an empty one in the settings": ({"chat_template": ""}, b"new", None, "new", ""),
    "no settings": ({}, b"new", None, "new", ""),
    "the same twice": ({"chat_template": "new"}, b"new", b"new", "new", ""),
    "an empty file": ({"chat_template": "old"}, b"", None, "old", ""),
    "a processor's": ({}, None, b"boxed", "boxed", ""),
    "a processor's beside the settings": ({"chat_template": "old"}, None, b"boxed", "old", "chat_template.json has"),
    "three": ({"chat_template": "old"}, b"new", b"boxed", "new", "tokenizer_config.json and chat_template.json has"),
    "a list": ({"chat_template": [{"name": "default", "template": "old"}, {"name": "rag", "template": "r"}]}, b"new",
               None, "new", "tokenizer_config.json has another"),
}  # fmt: skip


@pytest.mark.parametrize("name", WINNERS)
def test_the_winner_and_the_loser_are_those_of_transformers(name: str) -> None:
    settings, jinja, boxed, winner, message = WINNERS[name]
    files = {"chat_template.jinja": jinja, "chat_template.json": boxed and dumped({"chat_template": boxed.decode()})}
    found = find_chat_templates(files.get, settings, ())
    assert found.default == winner
    assert found.named == {}
    assert [text.startswith(message) for _, text in found.warnings] == ([True] if message else [])


@pytest.mark.parametrize("said", ["old", None, ""])
def test_transformers_takes_the_same(said: str | None, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = kind("llama3")
    settings = {**made.parsed("tokenizer_config.json"), "chat_template": said}
    made = made.but(tokenizer_config__json=dumped(settings), chat_template__jinja=b"new")
    theirs = AutoTokenizer.from_pretrained(str(made.write(tmp_path)))
    found = {entry.key: entry.value for entry in read(made).metadata}
    assert found["tokenizer.chat_template"] == theirs.chat_template == "new"

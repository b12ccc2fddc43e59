"""Chat templates: rendered as transformers renders them, and kept from doing anything else."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from checkpoints import build
from transformers.utils.chat_template_utils import render_jinja_template

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.templates import ChatTemplate, read_chat_template, render
from quantkit.errors import InputError
from quantkit.source import open_source

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " 1 < 2? 'é' "},
    {"role": "assistant", "content": "Yes."},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BLOCKS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- endif %}
{% for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {% if loop.last %}{% continue %}{% endif %}
  [{{ message['content'] | tojson }}]
{%- endfor %}
{%- set found = namespace(count=0) %}
{%- for message in messages %}{% set found.count = found.count + 1 %}{% endfor %}
{{ found.count }} {{ {'é': "<&'>"} | tojson(indent=2) }}{{ eos_token }}
"""
MARKED = """{% for m in messages %}
{%- if m.role == 'assistant' -%}
{% generation %} {{ m.content }} {% endgeneration %}
{%- endif -%}
{% endfor %}"""


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LONG = "{% for a in range(99999) %}{% for b in range(9999) %}aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}"
DOUBLE = "{% set x = namespace(s='ab') %}{% for i in range(200) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}"


TOOLS = "{% if tools is not none %}{{ tools | length }}{% endif %}{{ documents is none }}" + CHATML


@pytest.mark.parametrize("source", [CHATML, BLOCKS, MARKED, TOOLS], ids=["chatml", "blocks", "marked", "tools"])
def test_text_is_what_transformers_renders(source: str) -> None:
    expected, _ = render_jinja_template([TALK], chat_template=source, **TOKENS)
    assert render(ChatTemplate(source, TOKENS), [TALK]) == expected


def test_the_clock_stands_still() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {})
    assert render(template, [TALK]) == ["01 Jan 2025"]


def test_many_conversations_keep_their_order() -> None:
    talks = [[{"role": "user", "content": str(n)}] for n in range(500)]
    assert render(ChatTemplate("{{ messages[0].content }}", {}), talks) == [str(n) for n in range(500)]


def test_a_failing_template_names_the_conversation() -> None:
    template = ChatTemplate(BLOCKS, TOKENS)
    with pytest.raises(
        InputError, match=r"failed on conversation 1 \(it refuses the messages: raise_exception\)"
    ) as caught:
        render(template, [TALK, [TALK[0], TALK[2]]])
    assert "roles" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ (messages|attr('__class__')) }}",
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
        "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
        "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
        "{{ namespace.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
        "{{ raise_exception.__globals__.sys.exit(0) }}",
        "{{ strftime_now.__self__.__class__ }}{{ strftime_now.__self__.__reduce__ }}",
        "{{ '{0.__class__}'.format(messages) }}{{ '%s'|format(1).__class__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% set x = messages.append({}) %}",
        "{{ messages.pop() }}",
        "{% if %}",
        "{{ undefined_name.attribute }}",
        "{% generation %}",
    ],
)
def test_a_template_cannot_leave_its_box(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        [text] = render(ChatTemplate(source, {}), [TALK])
    except InputError as error:
        assert error.hint
    else:
        assert not any(word in text for word in ("class", "module", "function", "root:"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(LOOPS, id="loops", marks=pytest.mark.slow),
        pytest.param("{{ 'a' * 10**11 }}", id="repeat"),
        pytest.param(DOUBLE, id="double"),
        pytest.param(LONG, id="long-text", marks=pytest.mark.slow),
        pytest.param("{{ 9**(9**9) }}", id="power", marks=pytest.mark.slow),
        pytest.param("{{ '%0999999999d' % 1 }}", id="format"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", id="recursion"),
    ],
)
def test_time_memory_and_text_are_limited(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(InputError, match="chat template"):
        render(ChatTemplate(source, {}), [TALK])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10  # the system ends it after 2 s


def test_a_template_of_any_length_is_not_parsed() -> None:
    with pytest.raises(InputError, match="at most 65,536 are accepted"):
        render(ChatTemplate("x" * 65_537, {}), [TALK])


def test_template_and_special_tokens_come_from_the_checkpoint(tmp_path: Path) -> None:
    folder = build("llama-untied-gqa", tmp_path)
    assert read_chat_template(open_source(str(folder))) is None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": CHATML, "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoint = open_source(str(folder))
    template = read_chat_template(checkpoint)
    assert template is not None
    assert template.source == CHATML
    assert template.tokens.items() >= TOKENS.items()
    assert model_tokens(checkpoint, 2048).chat
    data = tmp_path / "talk.jsonl"
    data.write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps({"text": "plain"}))
    texts = load_texts(str(data), template)
    assert texts.rendered
    assert texts.documents[1] == "plain"
    assert texts.documents[0].startswith("<|im_start|>system\nBe brief.<|im_end|>")

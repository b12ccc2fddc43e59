"""Chat templates in Ollama's terms: what comes out renders as the model's own does, and what cannot is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from templates_at_hand import AtHand, in_process, real_templates
from transformers.utils.chat_template_utils import render_jinja_template

from quantkit.calibration.text.templates import ChatTemplate
from quantkit.ollama.conversations import ASSISTANT, SYSTEM, USER, Message, Talk
from quantkit.ollama.gotemplate import TemplateError, parse
from quantkit.ollama.proof import values_of
from quantkit.ollama.translate import Translation, translate

REAL = real_templates()
REFUSED = {  # a piece of why
    "smollm3-3b": "today's date", "ibm-granite-granite-3.3-2B-Instruct": "today's date",
    "fireworks-ai-llama-3-firefunction-v2": "UndefinedError",  # wants a variable that only its own server gives
}  # fmt: skip
DATED = "2025-03-07"  # what Ollama's currentDate says in these tests

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def talk(*said: str) -> Talk:
    """A conversation: "s: ...", "u: ...", "a: ..."."""
    roles = {"s": SYSTEM, "u": USER, "a": ASSISTANT}
    return Talk(tuple(Message(roles[text[0]], text[3:]) for text in said))


# Not one of these is among those that a translation is derived from or proved on.
TALKS = (
    talk("u: Why is the sky blue?"),
    talk("u: Hello", "a: Hello! What can I do for you?", "u: Tell me a joke,\nplease."),
    talk("u: 1", "a: 2", "u: 3", "a: 4", "u: 5", "a: 6", "u: 7", "a: 8", "u: 9", "a: 10", "u: 11", "a: 12", "u: 13"),
    talk('s: You talk like a pirate: "Arr", {{ not this }}', "u: Where's my <ship>?"),
    talk("s: 你是一个助手。", "u: 你好", "a: 你好！", "u: ```go\nfunc main() {}\n```"),
    talk("u: Finish my sentence", "a: The quick brown"),
    talk("s: Be brief.", "u: One", "a: Two", "u: Three", "a: Fo"),
)


def translated(source: str, **tokens: str) -> Translation:
    return translate(ChatTemplate(source, tokens), tokens.get("bos_token", ""), in_process)


def ollama(translation: Translation, said: Talk) -> str:
    assert translation.template is not None, translation.why
    return parse(translation.template).render(values_of(said), {"currentDate": lambda: DATED})


def expected(template: ChatTemplate, bos: str, said: Talk, *, merged: bool = False) -> str | None:
    """By transformers' own renderer, whose clock is left alone; None where the template raises."""
    messages = [{"role": m.role, "content": m.content} for m in (said.merged() if merged else said).opening]
    try:
        asked = {"chat_template": template.source, "add_generation_prompt": True, **template.tokens}
        [text], _ = render_jinja_template([messages], **asked)
    except Exception:  # noqa: BLE001  (whatever a stranger's template raises)
        return None
    return text.removeprefix(bos) + said.open_reply if bos else text + said.open_reply


@pytest.mark.skipif(not REAL, reason="no published templates are at hand")
def test_most_real_templates_come_out() -> None:
    assert len(REAL) > 20
    assert len([each for each in REAL if each.name not in REFUSED]) > 0.9 * len(REAL)


@pytest.mark.parametrize("at_hand", REAL, ids=lambda each: each.name)
def test_a_real_template_renders_alike_or_is_refused(at_hand: AtHand) -> None:
    made = translate(at_hand.template, at_hand.bos, in_process)
    if at_hand.name in REFUSED:
        assert made.template is None
        assert REFUSED[at_hand.name] in made.why
        return
    assert made.template is not None, made.why
    assert made.proved > 50
    clock = any("date" in caveat for caveat in made.caveats)
    merged = any("refuses messages of the system" in caveat for caveat in made.caveats)
    compared = 0
    for said in () if clock else TALKS:
        text = expected(at_hand.template, at_hand.bos, said, merged=merged)
        if text is not None:
            assert ollama(made, said) == text, said.named()
            compared += 1
    assert clock or compared >= 3 or at_hand.name.endswith("tool_use")  # which transformers renders with tools alone


GO = shutil.which("go") or shutil.which("go", path="/usr/lib/go/bin:/usr/local/go/bin:/usr/lib/go-1.19/bin")
PROGRAM = """package main
import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)
type message struct{ Role, Content string }
type job struct {
	Template string
	System   []string
	Messages [][]message
}
func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil { panic(err) }
	date := func(args ...string) string { return "DATED" }
	texts := [][]string{}
	for _, each := range jobs {
		made := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"currentDate": date})
		made = template.Must(made.Parse(each.Template))
		found := []string{}
		for number, messages := range each.Messages {
			var text strings.Builder
			values := map[string]any{"System": each.System[number], "Messages": messages, "Response": ""}
			if err := made.Execute(&text, values); err != nil { panic(err) }
			found = append(found, text.String())
		}
		texts = append(texts, found)
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
""".replace("DATED", DATED)


@pytest.mark.slow
@pytest.mark.skipif(GO is None, reason="no Go toolchain: text/template itself is not asked")
@pytest.mark.skipif(not REAL, reason="no published templates are at hand")
def test_go_itself_renders_what_the_reader_here_does(tmp_path: Path) -> None:
    made = {each.name: translate(each.template, each.bos, in_process) for each in REAL if each.name not in REFUSED}
    odd = {name: repeated(text) for name, text in ODD_TEXTS.items()}
    made |= {name: translated(source, bos_token="<s>") for name, source in {**STRANGE, **odd}.items()}
    (tmp_path / "main.go").write_text(PROGRAM)
    jobs = [
        {
            "Template": each.template,
            "System": [said.system for said in TALKS],
            "Messages": [[{"Role": m.role, "Content": m.content} for m in said.messages] for said in TALKS],
        }
        for each in made.values()
    ]
    assert GO
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod", "HOME": str(tmp_path)}
    done = subprocess.run(
        [GO, "run", "main.go"], input=json.dumps(jobs).encode(), capture_output=True, cwd=tmp_path, env=environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    for name, texts in zip(made, json.loads(done.stdout), strict=True):
        for said, text in zip(TALKS, texts, strict=True):
            assert text == ollama(made[name], said), (name, said.named())


# --- shapes -----------------------------------------------------------------------------------------------------------

STRANGE = {
    "bos": "{{ bos_token }}" + CHATML,
    "default system": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Test.<|im_end|>\n{% endif %}" + CHATML
    ),
    "system before the last question": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = m.content %}{% elif m.role == 'user' %}"
        "[INST] {% if loop.last and ns.system %}{{ ns.system }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
    "system within the first question": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + "
        "'\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}[INST] {{ (s if loop.first else '') + m.content }} [/INST]"
        "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
    ),
    "reply that thinks": CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif"),
    "other words for later questions": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' if loop.index0 < 2 else 'Next: ' }}{{ m.content }}\n"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}A:"
    ),
    "parts": CHATML.replace("m.content", "m.content[0].text"),
    "nothing but the texts": "{% for m in messages %}{{ m.content }}\n{% endfor %}",
}


@pytest.mark.parametrize("source", STRANGE.values(), ids=STRANGE.keys())
def test_shapes_of_templates(source: str) -> None:
    made = translated(source, bos_token="<s>")
    parts = "[0].text" in source
    for said in TALKS:
        own = source.replace("[0].text", "")  # transformers is asked with texts
        assert ollama(made, said) == expected(ChatTemplate(own, {"bos_token": "<s>"}), "<s>", said), said.named()
    assert not made.caveats or not parts


def test_a_plain_template_reads_as_a_person_would_write_it() -> None:
    assert translated(CHATML).template == (
        '{{- $prev := "" }}\n'
        "{{- range $i, $_ := .Messages }}\n"
        "{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"
        '{{- if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ $prev = .Role }}\n'
        '{{- else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ $prev = .Role }}\n'
        '{{- else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}{{ if not $last }}<|im_end|>\n'
        "{{ end }}{{ $prev = .Role }}\n"
        "{{- end }}\n{{- end }}\n"
        '{{- if ne $prev "assistant" }}<|im_start|>assistant\n{{ end }}'
    )


def test_bos_is_left_to_the_tokenizer_that_puts_it() -> None:
    source = "{{ bos_token }}" + CHATML
    assert ollama(translated(source, bos_token="<s>"), TALKS[0]).startswith("<|im_start|>")
    kept = translate(ChatTemplate(source, {"bos_token": "<s>"}), "", in_process)
    assert ollama(kept, TALKS[0]).startswith("<s><|im_start|>")


def test_the_default_system_is_known() -> None:
    assert translated(STRANGE["default system"]).default_system == "You are Test."
    assert translated(CHATML).default_system == ""


def test_a_template_without_systems_puts_what_they_say_before_the_first_question() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    made = translated(source)
    assert ollama(made, talk("s: Be brief.", "u: Hi")) == ollama(made, talk("u: Be brief.\n\nHi"))
    assert any("refuses messages of the system" in caveat for caveat in made.caveats)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for m in messages %}[{{ loop.index }}] {{ m.content }}{% endfor %}", "the same|depends on more"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "twice"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "order"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves a message of the user out"),
        ("{{ messages[-1].content }}", "leaves a message"),
        ("{{ raise_exception('never') }}", "refuses even one message of the user"),
        ("{% for m in messages %}{{ m.content }}", "TemplateSyntaxError"),
        ("{{ strftime_now('%d %B') }}" + CHATML, "today's date"),
        ("{{ messages | tojson }}", "by the chat template"),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% if '?' in m.content %}?{% endif %}{% endfor %}",
            "by the chat template",
        ),
        ("x" * 65_537, "at most 65,536"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_the_reason(source: str, why: str) -> None:
    made = translate(ChatTemplate(source, {}), "") if len(source) > 60_000 else translated(source)
    assert made.template is None
    assert any(piece in made.why for piece in why.split("|")), made.why


def test_dates_are_asked_of_ollama_or_stand_still() -> None:
    asked = translated("{{ strftime_now('%Y-%m-%d') }}\n" + CHATML)
    assert ollama(asked, TALKS[0]).startswith(DATED + "\n")
    still = translated("{{ strftime_now('%d %b') if strftime_now is defined else '26 Jul' }}\n" + CHATML)
    assert ollama(still, TALKS[0]).startswith("26 Jul\n")
    assert any("default date" in caveat for caveat in still.caveats)


@pytest.mark.parametrize(
    ("change", "case"),
    [("m.content | trim", "blanks"), ("m.content.split('</think>')[-1].lstrip('\\n')", "reasoning")],
)
def test_what_ollama_cannot_do_to_contents_is_said_with_a_conversation(change: str, case: str) -> None:
    made = translated(CHATML.replace("m.content", f"({change})"))
    assert made.template == translated(CHATML).template
    [caveat] = made.caveats if case == "blanks" else [c for c in made.caveats if "reasoning" in c]
    assert 'user "' in caveat
    assert "by the chat template" in caveat


ODD_TEXTS = {
    "quotes": 'say """{{ m.content }}""" and " ""',
    "braces": "{{ '{{ .Content }}' }}{ {{ m.content }} }{{ '{' }}",
    "blanks": " \n\t {{ m.content }} \t\n\n ",
    "unprintable": "\u00a0\u200b\u2028{{ m.content }}\u3000\x07\r\n",
    "marks": "{{- '-}}' }}{{ '{{- /* x */ -}}' }}{{ m.content }}\\n \\\" $last",
    "beyond": "😀\U0010fffe{{ m.content }}▁｜",
}


def repeated(text: str) -> str:
    return "{% for m in messages %}" + text + "{% endfor %}"


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_texts_survive(text: str) -> None:
    source = repeated(text)
    made = translated(source)
    for said in TALKS:
        assert ollama(made, said) == expected(ChatTemplate(source, {}), "", said)


def test_templates_run_in_their_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that users take, a process of its own: what reaches out finds nothing, what runs on is stopped."""
    monkeypatch.chdir(tmp_path)
    reaching = "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}" + CHATML
    assert translate(ChatTemplate(reaching, {}), "").template is None
    double = "{% set x = namespace(s='ab') %}{% for i in range(200) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s }}"
    assert translate(ChatTemplate(double, {}), "").template is None
    assert translate(ChatTemplate(CHATML, {}), "").template == translated(CHATML).template
    assert not list(tmp_path.iterdir())


# --- Go's templates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a {{- .X }} b", "a1 b"),
        ('{{ "\\x22\\u00e9\\n" }}', '"é\n'),
        ("{{ if eq .X 2 }}a{{ else if eq .X 1 2 }}b{{ else }}c{{ end }}", "b"),
        ("{{ $a := 0 }}{{ range $i, $m := .L }}{{ $a = $i }}{{ $m }}{{ end }}{{ $a }}", "xy1"),
        ("{{ if not .E }}none{{ end }}{{ len (slice .L 1) }}", "none1"),
        ("{{ range $i, $_ := .L }}{{ if ne $i 0 }}{{ $.X }}{{ end }}{{ end }}", "1"),
        ("{{ true }}{ }} {", "true{ }} {"),
    ],
)
def test_what_is_known_of_go_templates(source: str, text: str) -> None:
    values: dict[str, Any] = {"X": 1, "L": ["x", "y"], "E": ""}
    assert parse(source).render(values) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ .Nothing }}", "{{ nothing 1 }}", "{{ if .X }}", "{{ end }}", "{{ else }}", "{{ $x }}", "{{ $x = 1 }}",
        "{{ .X | printf }}", "{{ eq 1 }}", '{{ eq .X "1" }}', "{{ .L }}", "{{ slice .L 3 }}", "{{ with .X }}{{ end }}",
        "{{ range .L }}{{ end }}", '{{ "\\q" }}', "{{ (eq 1 1 }}", "{{ }}", "{{ .X", "{{ if }}{{ end }}",
    ],
)  # fmt: skip
def test_what_is_not_known_is_an_error(source: str) -> None:
    with pytest.raises(TemplateError):
        parse(source).render({"X": 1, "L": ["x", "y"]})

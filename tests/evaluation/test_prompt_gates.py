"""quantkit eval --prompts as a user meets it: figures, gates, what is refused; the likelihoods against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from commands import TINY, quantkit
from jsonschema import Draft202012Validator

from quantkit.calibration.text.data import model_tokens
from quantkit.calibration.text.spec import embedding_rows
from quantkit.evaluation.answers import Heard, PromptReport, Rate, compare_answers
from quantkit.evaluation.corpus import Piece
from quantkit.evaluation.figures import Estimate, wilson
from quantkit.evaluation.gates import Subject, judge, parse_gates, require_measured
from quantkit.evaluation.likelihood import likelihoods
from quantkit.evaluation.made_prompts import TEMPLATES
from quantkit.evaluation.prompts import asked_of, read_prompts
from quantkit.evaluation.provable import needed, provable
from quantkit.evaluation.scores import Likelihood
from quantkit.evaluation.sides import Side
from quantkit.pipeline.asking import prompts_for
from quantkit.pipeline.evaluate import EvalRequest
from quantkit.schemas import json_schema
from quantkit.schemas.evaluation import HistoryLine
from quantkit.source import open_source

ROWS = [
    {"id": "a", "kind": "prose", "text": "The harbour was quiet in", "expect": {"regex": "[a-z]"}},
    {"id": "b", "kind": "prose", "text": "To install the package, run"},
    {"id": "c", "kind": "json", "text": "A JSON object:", "expect": {"json": True}},
    {"id": "d", "kind": "json", "text": "A list:", "expect": {"json": True, "contains": "["}},
    {
        "id": "e",
        "kind": "choice",
        "text": "See the section about",
        "expect": {"choice": [" the", " zebra qqq"], "answer": " the"},
    },
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", folder / "m.gguf", "--no-verify", "-q").status == 0
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "plain.jsonl").write_text(json.dumps({"text": "The harbour"}) + "\n")
    return folder


def evaluate(made: Path, *options: object, file: str = "p.jsonl") -> Any:
    few = ("--prompts", made / file, "--prompt-tokens", 6)
    return quantkit("eval", made / "m.gguf", "--against", TINY, *few, *options)


def test_figures_of_prompts_fit_the_schema(made: Path) -> None:
    found = evaluate(made, "--json", "--gate", "expect_pass>=0.1")
    assert found.status == 0, found.stderr
    assert [e.message for e in Draft202012Validator(json_schema("eval")).iter_errors(found.json)] == []
    [artifact] = found.json["artifacts"]
    report, data = artifact["prompts"], found.json["data"]
    assert (data["name"], data["documents"]) == ("prompts p.jsonl", 5)
    assert [answer["id"] for answer in report["answers"]] == list("abcde")
    assert sorted(report["worst"]) == list("abcde")
    assert {name: rate and rate["prompts"] for name, rate in report["rates"].items()} == {
        "json_valid": 2, "copy_exact": None, "arithmetic": None, "choice": 1, "expect_pass": 4,
    }  # fmt: skip
    assert [kind["prompts"] for kind in report["kinds"]] == [2, 2, 1]
    assert all(0 <= answer["equal_tokens"] <= answer["reference_tokens"] == 6 for answer in report["answers"])
    assert all(answer["kl"] > 0 for answer in report["answers"])
    choice = report["answers"][4]["expectations"]
    assert choice == [{"kind": "choice", "reference": True, "artifact": True}]
    [gate] = artifact["gates"]
    assert gate["bound"] < gate["value"] == report["rates"]["expect_pass"]["value"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_prompts_fit_the_terminal(made: Path, columns: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = evaluate(made, "--summary", tmp_path / "s.md")
    assert found.status == 0, found.stderr
    assert max(map(len, found.stdout.splitlines())) <= columns
    assert "worst prompts" in found.stdout
    assert "| m.gguf | 5 |" in (tmp_path / "s.md").read_text()


@pytest.mark.parametrize(
    ("gate", "file", "status", "said"),
    [
        ("json_valid>=0.98", "p.jsonl", 3, "even 2 of 2 prompts prove no more than 0.425, 133 prompts are needed"),
        ("json_valid>=0.98", "p.jsonl", 3, "hint: --prompts json, a set that ships, or gate json_valid>=0.425"),
        ("json_valid>=0.995", "p.jsonl", 3, "hint: give more prompts with --prompts FILE"),
        ("json_valid>=1", "p.jsonl", 3, "no number of prompts does"),
        ("copy_exact>=0.5", "p.jsonl", 3, "no prompt of p.jsonl has an expectation of copy"),
        ("copy_exact>=0.5", "p.jsonl", 3, "--prompts copy, a set that ships"),
        ("expect_pass>=0.5", "plain.jsonl", 3, "no prompt of plain.jsonl has an expectation of any kind"),
        ("lost<=0", "plain.jsonl", 3, "no prompt of plain.jsonl has an expectation of any kind"),
        ("divergence>=0.5", "plain.jsonl", 3, "one prompt has no confidence bound"),
        ("json_valid>=0.4", "p.jsonl", 8, "json_valid>=0.4: 0 (95 % Wilson bound over 2 prompts, the original 0)"),
        ("json_vald>=0.4", "p.jsonl", 2, 'did you mean "json_valid"'),
        ("lost>=1", "p.jsonl", 2, "less lost is better"),
        ("divergence>=101%", "p.jsonl", 2, "nothing can hold it"),
    ],
)
def test_gates_on_prompts(made: Path, gate: str, file: str, status: int, said: str) -> None:
    found = evaluate(made, "--gate", gate, file=file)
    assert (found.status, said in found.stderr) == (status, True), found.stderr


@pytest.mark.parametrize(
    ("gates", "chosen"),
    [
        (["json_valid>=0.98"], "json"),
        (["copy_exact>=98%"], "copy"),
        (["json_valid>=0.98", "copy_exact>=0.98", "size<=0.5x"], "copy+json"),
        (["json_valid>=0.98", "lost<=0"], None),
        (["kld<0.1"], None),
    ],
)
def test_a_set_that_ships_is_taken_where_gates_ask_for_it(gates: list[str], chosen: str | None) -> None:
    """And proves what they ask: the issue's own example can be held, and says over how many prompts."""
    parsed = parse_gates(gates)
    assert prompts_for(parsed) == chosen
    if chosen is None:
        return
    prompts = read_prompts(chosen)
    require_measured(parsed, text=True, prompts=prompts)
    assert EvalRequest(("m.gguf",), "SRC", gates=tuple(gates)).check() is None
    rates = {n: [k] for n, k in (("json_valid", "json_schema"), ("copy_exact", "copy"))}
    for gate in parsed:
        if gate.metric.name in rates:
            count = prompts.having(*rates[gate.metric.name])
            assert count == 240
            low = wilson(1.0, count)[0]
            assert wilson(239 / 240, count)[0] >= gate.limit, "one of them may fail"
            whole = Rate(count, Estimate(1.0, 0.0, low, 1.0), 1.0)
            report = SimpleNamespace(rates={gate.metric.name: whole})
            [verdict] = judge([gate], Subject(1, 1, prompts=cast(PromptReport, report)))
            assert verdict.ok
            assert "95 % Wilson bound over 240 prompts" in verdict.words


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("json", "052051279c636d7dcbf55ff70c014b93a0507e9471225f2ede67e4f04b4bcefc"),
        ("copy", "74a73a78cb712a1ed7d33c8abb909b6d18abe12a37b7bd61f1aab88477421967"),
    ],
)
def test_made_sets_are_always_the_same_and_can_be_answered(name: str, sha256: str) -> None:
    """Other bytes are another set: figures of both cannot be compared. The right answer holds, another does not."""
    prompts = read_prompts(name)
    assert (prompts.name, prompts.sha256) == (name, sha256)
    assert len({p.prompt for p in prompts.prompts}) == len({p.name for p in prompts.prompts}) == 240
    for number, prompt in enumerate(prompts.prompts):
        [expected] = prompt.expected
        right = json.dumps(TEMPLATES[number // 12].answer(number % 12)) if name == "json" else prompt.prompt or ""
        assert expected.holds is not None
        assert expected.holds(right.splitlines()[-1]), prompt.name
        assert not expected.holds('{"nothing": 1}')


def test_the_cost_of_prompts_is_told_before_and_their_rates_are_kept_after(made: Path, tmp_path: Path) -> None:
    found = evaluate(made, "--append", tmp_path / "h.jsonl", "--json")
    line, report = json.loads((tmp_path / "h.jsonl").read_text()), found.json["artifacts"][0]["prompts"]
    assert line["prompts"]["rates"] == report["rates"]
    assert line["prompts"]["rates"]["json_valid"]["prompts"] == 2
    assert {key: report[key] for key in line["prompts"]} == line["prompts"]
    msgspec.convert(line, HistoryLine)
    told = next(line for line in found.stderr.splitlines() if "prompts of p.jsonl" in line)
    assert "tokens read, 30 written at most, by each of 2 models, about" in told
    assert found.stderr.index(told) < found.stderr.index(" generate ")


def test_gates_on_prompts_need_prompts(made: Path) -> None:
    text = ("--data", Path(__file__), "--against", TINY)
    for command in ("eval", "verify"):
        found = quantkit(command, made / "m.gguf", *text, "--gate", "lost<=0")
        assert (found.status, "--prompts golden" in found.stderr) == (2, True), found.stderr


def test_what_else_is_refused(made: Path) -> None:
    for status, said, options in (
        (3, "does not exist", ("--prompts", made / "none.jsonl")),
        (2, "prompt-tokens", ("--prompts", "golden", "--prompt-tokens", 0)),
        (3, "more than the 1,024 that the model takes", ("--prompts", "golden", "--prompt-tokens", 1020)),
    ):
        found = quantkit("eval", made / "m.gguf", "--against", TINY, *options)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


def test_likelihoods_are_those_of_transformers() -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = open_source(str(TINY))
    tokens = model_tokens(checkpoint, embedding_rows(checkpoint))
    pairs = [("The harbour was", " quiet"), ("See", " the section about the"), ("x", "y" * 90)]
    pieces = [Piece([1, *tokens.encode(a)], tokens.encode(b)) for a, b in pairs]
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    ours, same = likelihoods(Side("a", checkpoint), [Side("b", checkpoint)], pieces)
    for piece, found, other in zip(pieces, ours, same, strict=True):
        ids = torch.tensor([[*piece.before, *piece.after]])
        with torch.no_grad():
            logs = model(ids).logits[0, len(piece.before) - 1 : -1].double().log_softmax(-1)
        right = torch.tensor(list(piece.after))
        assert found.log == pytest.approx(float(logs.gather(1, right[:, None]).sum()), rel=1e-5)
        assert found.first is bool((logs.argmax(-1) == right).all())
        assert (other.log, other.first, other.kl) == (found.log, found.first, pytest.approx(0, abs=1e-6))


def heard(tokens: list[list[int]], kl: float) -> Heard:
    return Heard(tokens, [Likelihood(-1.0, True, kl)] * len(tokens), [[]] * len(tokens))


def test_figures_count_what_was_lost_and_where_texts_part(tmp_path: Path) -> None:
    rows = [{"text": "x", "expect": {"contains": word}} for word in ("a", "b", "c", "d")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = open_source(str(TINY))
    tokens = model_tokens(checkpoint, embedding_rows(checkpoint))
    asked = asked_of(read_prompts(str(tmp_path / "p.jsonl")), checkpoint, tokens, 4, 0)
    ours = heard([[1, 5, 2], [1, 2], [3, 2], [9, 9, 9, 9]], 0.0)
    theirs = heard([[1, 5, 2], [2], [4, 2], [9, 9, 7, 9]], 0.5)
    words = {1: "a b", 3: "c", 4: "d", 5: "!", 7: "d", 9: "."}
    report = compare_answers(asked, 4, ours, theirs, lambda ids: "".join(words[n] for n in ids))
    assert [answer.other for answer in report.answers] == ["a b!", "", "d", "..d."], "the ending token is no text"
    assert [answer.passed for answer in report.answers] == [(True, True), (True, False), (True, False), (False, True)]
    assert (report.lost, report.gained) == (2, 1)
    assert [answer.equal for answer in report.answers] == [3, 0, 0, 2]
    assert report.divergence.value == pytest.approx(np.mean([1, 0, 0, 0.5]))
    assert report.identical.value == 0.25
    assert [answer.name for answer in report.worst] == ["line 2", "line 3", "line 1", "line 4"]
    subject = Subject(1, 1, prompts=report)
    verdicts = judge(parse_gates(["lost<=1", "lost<=2", "divergence>=0.2", "identical>=25%"]), subject)
    assert [verdict.ok for verdict in verdicts] == [False, True, False, False]


def test_what_prompts_can_prove() -> None:
    """Against the closed form of Wilson's bound: the share p at which z = (hits/n - p) / sqrt(p (1 - p) / n)."""
    for hits, count in ((0, 4), (2, 4), (9, 10), (10, 10), (55, 60)):
        for bound, sign in zip(wilson(hits / count, count), (1, -1), strict=True):
            if 0 < bound < 1:
                z = (hits / count - bound) / np.sqrt(bound * (1 - bound) / count)
                assert z == pytest.approx(sign * 1.6448536, rel=1e-6)
    assert provable(10) == pytest.approx(0.787, abs=1e-3)
    for limit in (0.5, 0.9, 0.98):
        assert provable(needed(limit)) >= limit > provable(needed(limit) - 1)

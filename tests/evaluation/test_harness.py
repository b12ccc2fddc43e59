"""The adapter to lm-eval against its own class for transformers models: on the same model, the same figures.

lm-eval is an extra of forty packages and not in the environment of the tests: without it most of this is skipped.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, quantkit

from quantkit.errors import InputError, UsageError
from quantkit.evaluation.sides import Side
from quantkit.source import open_source

THERE = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not THERE, reason="lm-eval is not installed: pip install 'quantkit-cli[eval]'")

ROWS = [
    {"q": "The harbour was quiet in the early", "options": ["morning", "zebra"], "answer": 0, "text": "x " * 40},
    {
        "q": "To install the package,",
        "options": ["banana cake", "run the following"],
        "answer": 1,
        "text": "A short text.",
    },
    {"q": "See the section about", "options": ["the options", "qqq"], "answer": 0, "text": "def f(x):\n    return x\n"},
]
DATA = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/rows.jsonl\ntest_split: test\n"
ASK = 'doc_to_text: "{{{{q}}}}"\n'
WRITE = DATA + "output_type: generate_until\n" + ASK
MATCH = "metric_list:\n  - metric: exact_match\n"
SETTINGS = 'generation_kwargs:\n  until: [",", "."]\n  max_gen_toks: 12\n  do_sample: false\n'
PICK = "output_type: multiple_choice\ndoc_to_target: answer\ndoc_to_choice: options\n" + ASK
READ = 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{{{text}}}}"\n'
TASKS = {
    "pick": DATA + PICK + "metric_list:\n  - metric: acc\n  - metric: acc_norm\n",
    "read": DATA + READ + "metric_list:\n  - metric: word_perplexity\n",
    "write": WRITE + 'doc_to_target: "{{{{options[answer]}}}}"\n' + SETTINGS + MATCH,
    "unsafe": WRITE + 'doc_to_target: "a"\nunsafe_code: true\n' + MATCH,
    "afar": "dataset_path: nobody/no-such-data\ntest_split: test\n" + PICK,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, body in TASKS.items():
        (made / f"{name}.yaml").write_text(f"task: {name}\n" + body.format(folder=made))
    return made


def by_its_own_class(folder: Path, names: list[str]) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(TINY), dtype="float32", device="cpu", batch_size=1)
    manager = TaskManager(include_path=str(folder))
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=manager, bootstrap_iters=100, log_samples=True
    )
    return found


@needs_it
def test_answers_are_those_of_the_harness_own_class(folder: Path) -> None:
    from quantkit.evaluation.harness import Together, run_tasks
    from quantkit.evaluation.tasks import TaskOptions
    from quantkit.events import ignore

    names = ["pick", "read", "write"]
    expected = by_its_own_class(folder, names)
    side = Side("a", open_source(str(TINY)))
    [found] = run_tasks(names, TaskOptions(str(folder)), side, [side])
    figures = {(each.task, each.metric): each for each in found}
    for name in names:
        for metric, value in expected["results"][name].items():
            what, _, how = metric.partition(",")
            if how and isinstance(value, float) and not what.endswith("_stderr"):
                each = figures[name, what]
                assert (each.value, each.reference) == pytest.approx((value, value), rel=1e-5)
                assert each.documents == len(ROWS)
    together = Together(side, [side], None, ignore)
    for name, method in (("pick", "loglikelihood"), ("read", "loglikelihood_rolling"), ("write", "generate_until")):
        for sample in expected["samples"][name]:
            asked = [tuple(arguments) for arguments in _arguments(sample)]
            answers = [response[0] for response in sample["resps"]]
            ours = getattr(together, method)(0, asked)
            for one, theirs in zip(ours, answers, strict=True):
                assert one == pytest.approx(tuple(theirs), rel=1e-4) if method == "loglikelihood" else True
                assert method != "loglikelihood_rolling" or one == pytest.approx(theirs, rel=1e-4)
                assert method != "generate_until" or one == theirs


def _arguments(sample: dict[str, Any]) -> list[Any]:
    found = sample["arguments"]
    return list(found.values()) if isinstance(found, dict) else found


@needs_it
def test_tasks_that_are_refused(folder: Path) -> None:
    from quantkit.evaluation.harness import require_tasks
    from quantkit.evaluation.tasks import TaskOptions

    for name, kind, said in (
        ("pik", UsageError, "no task"),
        ("unsafe", UsageError, "runs what models write as code"),
        ("afar", InputError, "is not at hand"),
    ):
        with pytest.raises(kind, match=said):
            require_tasks([name], TaskOptions(str(folder)))
    require_tasks(["unsafe"], TaskOptions(str(folder), run_code=True))


@needs_it
def test_eval_shows_tasks_beside_the_original(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "m.gguf"
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", made, "--no-verify", "-q").status == 0
    asked = ("--harness", "lm-eval", "--tasks", "pick,write", "--tasks-from", folder, "--task-limit", 2)
    found = quantkit("eval", made, "--against", TINY, *asked, "--json")
    assert found.status == 0, found.stderr
    tasks = found.json["artifacts"][0]["tasks"]
    assert {(each["task"], each["documents"]) for each in tasks} == {("pick", 2), ("write", 2)}


@pytest.mark.skipif(THERE, reason="lm-eval is installed")
def test_without_the_extra_the_way_to_it_is_named(folder: Path) -> None:
    asked = ("--harness", "lm-eval", "--tasks", "pick", "--tasks-from", folder)
    found = quantkit("eval", folder / "rows.jsonl", "--against", TINY, *asked)
    assert (found.status, "pip install 'quantkit-cli[eval]'" in found.stderr) == (4, True), found.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--harness", "lm-evil", "--tasks", "a"), 'did you mean "lm-eval"'),
        (("--harness", "lm-eval"), "no task"),
        (("--tasks", "a"), "--harness lm-eval"),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], said: str, folder: Path) -> None:
    found = quantkit("eval", folder / "rows.jsonl", "--against", TINY, *options)
    assert (found.status, said in found.stderr) == (2, True), found.stderr

"""Files for others: valid by the schemas of those who read them, and nothing that a matrix names becomes code."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from batch.batches import artifacts, leftovers, matrix
from commands import quantkit

from quantkit.batch.emit import Job, emit, kinds
from quantkit.batch.emit.kubernetes import MOST_BYTES
from quantkit.batch.place import Setup
from quantkit.batch.slurm_script import KEYS, arrays, ladder_gib, log_pattern
from quantkit.batch.task import Needs, Task
from quantkit.errors import QuantkitError, UsageError
from quantkit.version import __version__

GIB = 1 << 30
HOSTILE = [
    "it's", 'a"b', "$(touch pwned)", "`touch pwned`", "${IFS}", "a;touch pwned", "a b", "#x", "$$", "%", "a\\b", "*",
    "${{ github.token }}", "{{x}}", "!!python/object:os.system", "- x", "&a", "\u202e", "ü",
]  # fmt: skip


def task(name: str, gib: float = 0.0) -> Task:
    return Task(name, "m", (), ("convert",), Path("out"), (), Needs(int(gib * GIB)))


TASKS = tuple(task(f"model-{n}.q4_k_m", gib) for n, gib in enumerate([0.1, 0.2, 3.2, 7.0, 7.1]))


def job(kind: str, tasks: tuple[Task, ...] = TASKS, folder: str = "ci") -> Job:
    base = f"/data/{folder}" if kind in ("kubernetes", "make") else folder
    return Job(tasks, f"{base}/matrix.toml", f"{base}/out", jobs=3, threads=2)


def vendored(name: str) -> Any:
    check_jsonschema = pytest.importorskip("check_jsonschema")
    path = Path(str(check_jsonschema.__file__)).parent / "builtin_schemas" / "vendor" / f"{name}.json"
    return json.loads(path.read_text())


def test_every_kind_is_tried_here() -> None:
    assert set(kinds()) == {"github", "gitlab", "kubernetes", "make"}


@pytest.mark.parametrize("kind", ["github", "gitlab"])
@pytest.mark.parametrize(
    ("words", "extras"),
    [
        ((), ""),
        (("--calib=default",), "[calibrate]"),
        (("--max-kld=0.1",), "[calibrate]"),
        (("--gate=assistant", "--eval-data=/x/held-out.parquet"), "[calibrate,data]"),
        (("--engine=llama.cpp",), "[calibrate,llamacpp]"),
    ],
)
def test_what_is_installed_has_what_tasks_need(kind: str, words: tuple[str, ...], extras: str) -> None:
    tasks = (TASKS[0], replace(TASKS[1], argv=("convert", "x", *words)))
    assert f"pip install 'quantkit-cli{extras}=={__version__}'" in emit(kind, job(kind, tasks))


@pytest.mark.parametrize(("kind", "schema"), [("github", "github-workflows"), ("gitlab", "gitlab-ci")])
@pytest.mark.parametrize("count", [1, 5, 600])
def test_servers_of_ci_take_it(kind: str, schema: str, count: int) -> None:
    tasks = tuple(task(f"model-{n}.gguf") for n in range(count))
    body = yaml.safe_load(emit(kind, job(kind, tasks)))
    jsonschema.validators.validator_for(vendored(schema))(vendored(schema)).validate(body)
    if kind == "github":
        groups = [each["strategy"]["matrix"]["task"] for each in body["jobs"].values()]
        assert all(len(group) <= 256 for group in groups)
        assert all("${{" not in step.get("run", "") for each in body["jobs"].values() for step in each["steps"])
    else:
        groups = [each["parallel"]["matrix"][0]["TASK"] for name, each in body.items() if name.startswith("convert")]
        assert all(len(group) <= 200 for group in groups)
    assert [name for group in groups for name in group] == [each.id for each in tasks], "each task once"


def test_kubernetes_takes_it() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all(emit("kubernetes", job("kubernetes"))))
    for body in documents:
        kubernetes_validate.validate(body, "1.31", strict=True)
    assert [body["spec"]["completions"] for body in documents] == [2, 1, 2]
    limits = [body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for body in documents]
    assert [limit["memory"] for limit in limits] == ["1Gi", "4Gi", "8Gi"]
    assert len({body["metadata"]["name"] for body in documents}) == 3


class Pod(NamedTuple):
    """How a pod of an index ended: the exit code of its container, and whether it was evicted."""

    exit: int
    evicted: bool = False


def tries(spec: dict[str, Any], ends: list[Pod]) -> int:
    """The pods that Kubernetes gives an index whose pods end like that (batch/v1, podFailurePolicy)."""
    counted = 0
    for number, pod in enumerate(ends, 1):
        action = "Count"
        for rule in spec["podFailurePolicy"]["rules"]:
            codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
            if pod.evicted if conditions else pod.exit in codes["values"]:
                action = rule["action"]
                break
        counted += action == "Count"
        if pod.exit == 0 or action == "FailIndex" or counted > spec["backoffLimitPerIndex"]:
            return number
    return len(ends)


def test_an_index_of_kubernetes_is_tried_again_where_that_may_help() -> None:
    """What `batch retry` could mend is tried three times more, what would end so again is not."""
    spec = next(yaml.safe_load_all(emit("kubernetes", job("kubernetes"))))["spec"]
    for code in (5, 6, 9, 10, 130, 137, 143):
        assert tries(spec, [Pod(code)] * 9) == 4, code
    for code in (1, 2, 3, 4, 7, 8):
        assert tries(spec, [Pod(code)] * 9) == 1, code
    assert tries(spec, [Pod(143, evicted=True)] * 8 + [Pod(0)]) == 9, "a node that is drained is no try"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 30


def shell(script: str, variable: str, number: int, cwd: Path) -> list[str]:
    """The words that the last command of a script gets, with `printf` in its place."""
    said = script.replace("exec quantkit", "exec printf '%s\\0'")
    env = {"PATH": "/usr/bin:/bin", variable: str(number)}
    out = subprocess.run(["sh", "-c", said], env=env, cwd=cwd, capture_output=True, text=True, check=True).stdout
    return out.split("\0")[:-1]


def test_each_index_of_kubernetes_is_a_task(tmp_path: Path) -> None:
    tasks = tuple(task(f"{'m' * 90}{n:05}.{'r' * 90}") for n in range(1500))
    documents = list(yaml.safe_load_all(emit("kubernetes", job("kubernetes", tasks))))
    found = []
    for body in documents:
        script = body["spec"]["template"]["spec"]["containers"][0]["command"][2]
        assert len(script) < MOST_BYTES + 1000, "an argument of a program"
        first, last = (shell(script, "JOB_COMPLETION_INDEX", n, tmp_path) for n in (0, body["spec"]["completions"] - 1))
        found += [first[-1], last[-1]]
        assert first[:-1] == ["batch", "run", "/data/ci/matrix.toml", "--threads", "2", "--task"]
    assert sum(body["spec"]["completions"] for body in documents) == 1500
    assert found[0] == tasks[0].id
    assert found[-1] == tasks[-1].id


@pytest.mark.parametrize("folder", HOSTILE)
@pytest.mark.parametrize("kind", ["github", "gitlab", "kubernetes", "make"])
def test_no_name_becomes_code(kind: str, folder: str, tmp_path: Path) -> None:
    """What the shell, make, YAML and the servers expand arrives as it is, or is refused with a reason."""
    asked = job(kind, folder=folder)
    try:
        text = emit(kind, asked)
    except UsageError as error:
        assert kind in ("github", "gitlab") or not folder.isprintable() or ":" in folder
        assert error.hint
        return
    if kind == "make":
        (tmp_path / "Makefile").write_text(text)
        run = ["make", "-s", "QUANTKIT=printf '%s\\0'", "task-model-0.q4_k_m"]
        out = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert out.split("\0") == ["batch", "run", asked.matrix, "--task", "model-0.q4_k_m", "--threads", "2", ""]
    elif kind == "kubernetes":
        body = next(yaml.safe_load_all(text))
        container = body["spec"]["template"]["spec"]["containers"][0]
        script = container["command"][2].replace("$$(", "$(")  # what Kubernetes makes of it
        assert "$(" not in container["command"][2].replace("$$(", "")
        words = shell(script, "JOB_COMPLETION_INDEX", 1, tmp_path)
        assert words == ["batch", "run", asked.matrix, "--threads", "2", "--task", "model-1.q4_k_m"]
        assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == f"/data/{folder}"
    else:
        assert asked.matrix in text
        assert not set(folder) & set("$`'\"{}*!&#\\;%")
    assert not list(tmp_path.glob("pwned"))


@pytest.mark.parametrize("kind", ["github", "gitlab"])
@pytest.mark.parametrize("path", ["/abs/matrix.toml", "../matrix.toml", "a/../../m.toml", "-x.toml", "a\nb.toml"])
def test_a_matrix_outside_of_the_repository_is_refused(kind: str, path: str) -> None:
    with pytest.raises(UsageError) as caught:
        emit(kind, Job(TASKS, path, "out"))
    assert "repository" in str(caught.value.hint)


@pytest.mark.parametrize(
    "wrong",
    [{"image": "a b"}, {"image": "x\n- y"}, {"claim": "UP"}, {"claim": "a: b"}, {"matrix": "rel.toml"},
     {"matrix": "/a:b/m.toml"}, {"matrix": "/a\nb/m.toml"}, {"out": "/elsewhere"}],
    ids=str,
)  # fmt: skip
def test_what_a_job_cannot_mount_is_refused(wrong: dict[str, str]) -> None:
    asked = {"matrix": "/data/matrix.toml", "out": "/data/out", **wrong}
    with pytest.raises(UsageError) as caught:
        emit("kubernetes", Job(TASKS, **asked))  # type: ignore[arg-type]
    assert caught.value.hint


# Slurm's scripts are made in the same way.


def setup(options: dict[str, str], matrix: str = "/data/matrix.toml", **more: Any) -> Setup:
    keys = {each.id: "key" for each in TASKS}
    return Setup(Path(matrix), Path(matrix).parent / "out", keys, options=tuple(options.items()), **more)


@pytest.mark.parametrize("folder", HOSTILE)
def test_a_job_script_holds_names_and_no_code(folder: str, tmp_path: Path) -> None:
    matrix = f"/data/{folder}/matrix.toml"
    for array in arrays(TASKS, setup({}, matrix, threads=2)):
        head, _, last = array.script.rstrip("\n").rpartition("\n")
        command = shlex.split(last)
        assert command[0] == "exec"
        said = f"{head}\n{last.replace('exec ' + shlex.quote(command[1]), 'exec quantkit')}"
        words = shell(said, "SLURM_ARRAY_TASK_ID", len(array.tasks) - 1, tmp_path)
        assert words[:5] == ["-m", "quantkit", "batch", "run", matrix]
        assert words[-2:] == ["--task", array.tasks[-1].id]
    assert log_pattern(Path("/a%j/b")) == "/a%%j/b/%A_%a.log"


def test_arrays_are_cut_by_memory_and_length() -> None:
    many = tuple(task(f"t{n}", 20.0 if n % 2 else 0.5) for n in range(2600))
    made = list(arrays(many, setup({"partition": "cpu", "time": "2:00:00"}, jobs=50)))
    assert [len(array.tasks) for array in made] == [1000, 300, 1000, 300]
    assert "#SBATCH --mem=1G\n" in made[0].script
    assert "#SBATCH --mem=24G\n" in made[2].script
    assert "#SBATCH --array=0-999%50\n#" in made[0].script
    assert "#SBATCH --partition=cpu\n#SBATCH --time=2:00:00\n" in made[0].script
    assert {each.id for array in made for each in array.tasks} == {each.id for each in many}
    fixed = list(arrays(many, setup({"mem": "64G", "cpus_per_task": "8"})))
    assert [len(array.tasks) for array in fixed] == [1000, 1000, 600]
    assert "#SBATCH --cpus-per-task=8\n#SBATCH --mem=64G\n" in fixed[0].script


@pytest.mark.parametrize("gib", [0, 0.4, 0.6, 1.4, 1.6, 3, 5, 100, 1000])
def test_memory_is_rounded_up_and_not_by_half_again(gib: float) -> None:
    asked, needed = ladder_gib(int(gib * GIB)), gib + 0.5
    assert needed <= asked <= max(1.5 * needed, 2), "never less, and at most half as much again"


@pytest.mark.parametrize(
    "options",
    [{"partiton": "cpu"}, {"partition": "cpu\n#SBATCH --mem=1"}, {"account": "a b"}, {"time": ""}, {"comment": "`x`"},
     {"qos": "$(x)"}, {"nodelist": "a;b"}, {"wrap": "x"}, {"output": "/etc/x"}],
    ids=str,
)  # fmt: skip
def test_options_that_a_script_cannot_hold_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(QuantkitError) as caught:
        list(arrays(TASKS, setup(options)))
    assert caught.value.hint
    if "partiton" in options:
        assert 'did you mean "partition"?' in caught.value.message
    assert "wrap" not in KEYS


# From the command line.


def test_a_makefile_makes_the_matrix(tmp_path: Path) -> None:
    """Two at a time, real conversions; what is done is left alone, and another file of that name is not replaced."""
    path = matrix(tmp_path / "it's a $folder", 2)
    makefile = tmp_path / "Makefile"
    made = quantkit("batch", "emit", path, "--for", "make", "-o", makefile, "--json")
    assert made.status == 0, made.stderr
    assert made.json["tasks"] == 2
    assert makefile.read_text() == made.json["text"]
    run = ["make", "-j2", "-s", f"QUANTKIT={sys.executable} -m quantkit", "--directory", str(tmp_path)]
    subprocess.run(run, check=True, capture_output=True)
    assert len(artifacts(path.parent / "out")) == 2
    assert not leftovers(path.parent / "out")
    assert quantkit("batch", "emit", path, "--for", "make", "-o", makefile).status == 0, "the same text is there"
    makefile.write_text("mine")
    refused = quantkit("batch", "emit", path, "--for", "make", "-o", makefile)
    assert refused.status == 6
    assert makefile.read_text() == "mine"
    assert quantkit("batch", "emit", path, "--for", "make", "-o", makefile, "--force", "--dry-run").status == 0
    assert makefile.read_text() == "mine"
    assert quantkit("batch", "emit", path, "--for", "make", "-o", makefile, "--force").status == 0
    assert makefile.read_text() == made.json["text"]


def test_every_kind_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = matrix(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    for kind in kinds():
        made = quantkit("batch", "emit", path, "--for", kind)
        assert made.status == 0, made.stderr
        assert "m0.gguf" in made.stdout
        assert "matrix.toml" in made.stdout
    body = yaml.safe_load(quantkit("batch", "emit", path, "--for", "kubernetes").stdout)
    assert body["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"
    for kind, option in (("github", "--image"), ("make", "--image"), ("make", "--claim"), ("gitlab", "--claim")):
        idle = quantkit("batch", "emit", path, "--for", kind, option, "x")
        assert (idle.status, f"{option} is of kubernetes" in idle.stderr) == (2, True)
    wrong = quantkit("batch", "emit", path, "--for", "kuberntes")
    assert wrong.status == 2
    assert 'did you mean "kubernetes"?' in wrong.stderr
    monkeypatch.chdir("/")
    elsewhere = quantkit("batch", "emit", path, "--for", "github")
    assert elsewhere.status == 0 or "repository" in elsewhere.stderr

"""The package as a library: what it exports, what its objects say of themselves, and the example of the README."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY

import quantkit
from quantkit.errors import QuantkitError, UsageError

ROOT = Path(__file__).parent.parent


def test_everything_that_is_exported_is_there() -> None:
    for name in quantkit.__all__:
        assert getattr(quantkit, name) is not None
    assert set(quantkit.__all__) <= set(dir(quantkit))
    with pytest.raises(AttributeError):
        _ = quantkit.nothing  # type: ignore[attr-defined]


def test_names_are_imported_from_where_type_checkers_find_them() -> None:
    [block] = (node for node in ast.parse(Path(quantkit.__file__).read_text()).body if isinstance(node, ast.If))
    said = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert said == quantkit._MODULES
    assert set(quantkit.__all__) == {*said, "__version__"}
    for name, module in said.items():
        assert getattr(quantkit, name) is vars(importlib.import_module(str(module)))[name]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, quantkit; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {name for name in found if name.startswith("quantkit.")} == {"quantkit.version"}
    assert not found & {"torch", "numba", "numpy", "transformers", "typer"}


def test_every_error_is_exported() -> None:
    for module in pkgutil.walk_packages(quantkit.__path__, "quantkit."):
        if module.name != "quantkit.__main__":
            importlib.import_module(module.name)

    def all_of(cls: type) -> set[type]:
        return {cls}.union(*(all_of(c) for c in cls.__subclasses__()))

    ours = {cls.__name__ for cls in all_of(QuantkitError) if cls.__module__.startswith("quantkit.")}
    assert ours <= set(quantkit.__all__)


def test_results_and_options_of_functions_are_exported() -> None:
    """What a public function takes or returns can be named."""
    for name in ("convert", "verify", "inspect", "prepare", "estimate", "doctor", "pack", "candidates", "calibrate"):
        for annotation in inspect.getfullargspec(getattr(quantkit, name)).annotations.values():
            for word in re.findall(r"\b[A-Z]\w+", annotation):
                known = {"None", "Path", "Callable", "Sequence", "Any", "CalibratePlan"}
                assert word in known or word in quantkit.__all__, (name, word)


def test_types_are_published() -> None:
    assert (ROOT / "quantkit" / "py.typed").is_file()


def test_python_m_quantkit() -> None:
    done = subprocess.run([sys.executable, "-m", "quantkit", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == f"quantkit {quantkit.__version__}\n"


def test_requests_take_paths_and_single_texts() -> None:
    made = quantkit.Request(Path("a") / "b", recipes="q4_k_m, q8_0", imatrix="x.gguf", calib=Path("t.jsonl"))  # type: ignore[arg-type]
    assert made == quantkit.Request("a/b", ("q4_k_m", "q8_0"), Path("x.gguf"), calib=("t.jsonl",))
    assert quantkit.Request("a", recipes=[Path("mine.toml")]).recipes == ("mine.toml",)  # type: ignore[arg-type]
    assert quantkit.Request("a", consumers="vllm,llama.cpp").consumers == ("vllm", "llama.cpp")  # type: ignore[arg-type]
    assert quantkit.Request("a", split_max_size=10**9).split_max_size == "1000000000"  # type: ignore[arg-type]
    assert quantkit.Output("out").out == Path("out")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"source": 3}, {"source": None}, {"recipes": 4}, {"recipes": [3]}, {"recipes": ()}])
def test_requests_say_what_they_cannot_take(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))[:6]) as caught:
        quantkit.Request(**{"source": "a", **wrong})  # type: ignore[arg-type]
    assert caught.value.hint


def test_objects_say_in_a_line_what_they_are(tmp_path: Path) -> None:
    request = quantkit.Request(TINY, recipes="q8_0")  # type: ignore[arg-type]
    with quantkit.prepare(request) as prepared:
        found = quantkit.estimate(prepared.plans[0])
    [artifact] = quantkit.convert(request, quantkit.Output(tmp_path, verify=False))
    seen = quantkit.verify(artifact.path)
    server = quantkit.prepare(quantkit.Request(TINY, recipes="fp8"))  # type: ignore[arg-type]
    looked = quantkit.inspect(artifact.path)
    for one in (request, prepared, prepared.plans[0], found, artifact, seen, server, server.plans[0], looked):
        assert repr(one).startswith(type(one).__name__)
        assert "\n" not in repr(one)
        assert len(repr(one)) < 300, repr(one)
    server.checkpoint.close()


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    shutil.copytree(TINY, tmp_path / "My-Model")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert {p.name for p in (tmp_path / "out").glob("*.gguf")} == {"My-Model-Q4_K_M.gguf", "My-Model-Q8_0.gguf"}


def test_evaluations_take_paths_and_single_texts() -> None:
    request = quantkit.EvalRequest("m.gguf", Path("model"), data=Path("default"), gates="kld<1")  # type: ignore[arg-type]
    assert (request.artifacts, request.against) == ((Path("m.gguf"),), "model")
    assert (request.data, request.gates) == (("./default",), ("kld<1",))
    assert quantkit.Records("j.xml").junit == Path("j.xml")  # type: ignore[arg-type]
    output = quantkit.Output("out", gates="kld<1", eval_data="a.txt")  # type: ignore[arg-type]
    assert (output.gates, output.eval_data) == (("kld<1",), ("a.txt",))
    with pytest.raises(quantkit.UsageError, match="artifacts is int"):
        quantkit.EvalRequest(3)  # type: ignore[arg-type]

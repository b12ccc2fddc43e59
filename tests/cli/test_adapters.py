"""--adapter through the commands: what comes out is what comes of the merged checkpoint, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from adapters import Lora, make_adapter, weights_of
from commands import quantkit
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from quantkit.source import open_source
from quantkit.storage import hash_file


def run(*arguments: object, code: int = 0) -> Any:
    outcome = quantkit(*arguments)
    assert outcome.status == code, outcome.stderr
    return outcome


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {t.name: (t.tensor_type, t.data.tobytes()) for t in GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build("llama-untied-gqa", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lora = Lora(rank=3, alpha=6.0, settings={"alpha_pattern": {"up_proj": 9.0}})
    return make_adapter(tmp_path_factory.mktemp("adapter") / "tuned", weights_of(base), lora, base=base.name)


@pytest.fixture(scope="module")
def plain(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merged model as a checkpoint of its own: what was changed in float32, the rest as it was."""
    folder = tmp_path_factory.mktemp("merged") / "merged"
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    source = open_source(str(base), adapters=[str(adapter)])
    for name, info in source.tensors().items():
        if info.dtype == "F32":
            tensors[name] = torch.from_numpy(source.ref(name).read(0, info.rows).reshape(info.shape))
    source.close()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_gguf_files_are_those_of_the_merged_checkpoint(base: Path, adapter: Path, plain: Path, tmp_path: Path) -> None:
    recipes = ["--to", "q4_k_m,q8_0,bf16,f32"]
    run("convert", str(base), "--adapter", str(adapter), *recipes, "-o", str(tmp_path / "a"))
    run("convert", str(plain), *recipes, "-o", str(tmp_path / "b"))
    made, wanted = (sorted((tmp_path / name).glob("*.gguf")) for name in "ab")
    assert [path.name for path in made] == [f"{base.name}-tuned-{r}.gguf" for r in ("BF16", "F32", "Q4_K_M", "Q8_0")]
    for one, other in zip(made, wanted, strict=True):
        assert tensors(one) == tensors(other), one.name
    manifest = json.loads((tmp_path / "a" / f"{base.name}-tuned-Q8_0.manifest.json").read_text())
    assert manifest["source"]["adapters"] == [
        {
            "name": "tuned", "base": base.name, "sha256": hash_file(adapter / "adapter_model.safetensors"), "rank": 3,
            "alpha": 6.0, "scales": [2.0, 3.0], "modules": 14, "saved": 0,
        }
    ]  # fmt: skip
    names = {file["name"] for file in manifest["source"]["files"]}
    assert {"adapters/1/adapter_model.safetensors", "adapters/1/adapter_config.json"} <= names


def test_plan_verify_and_a_second_run(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path)]
    planned = run("plan", str(base), "--adapter", str(adapter), "--to", "q8_0", "--json")
    assert json.loads(planned.stdout)["source"]["adapters"][0]["scales"] == [2.0, 3.0]
    command = ["convert", str(base), "--adapter", str(adapter), "--to", "q8_0", *out]
    run(*command)
    assert json.loads(run(*command, "--json").stdout)["artifacts"][0]["built"] is False
    file = str(next(tmp_path.glob("*.gguf")))
    run("verify", file, "--against", str(base), "--adapter", str(adapter))
    run("verify", file, "--against", str(base), code=7)  # the base alone is another model
    run("verify", file, "--adapter", str(adapter), code=2)
    # another adapter is another artifact
    lora = Lora(rank=3, alpha=6.0, seed=9)
    other = make_adapter(tmp_path / "other" / "tuned", weights_of(base), lora, base=base.name)
    run("convert", str(base), "--adapter", str(other), "--to", "q8_0", *out, code=6)


@pytest.mark.slow
def test_servers_and_calibration_see_merged_weights(base: Path, adapter: Path, plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The module provides a class that reads files and returns their lines. " * 60)
    few = ["--samples", "4", "--seqlen", "32"]
    for name, source in (("a", [str(base), "--adapter", str(adapter)]), ("b", [str(plain)])):
        run("convert", *source, "--to", "w8a16", "-o", str(tmp_path / name / "w8a16"))
        run("convert", *source, "--to", "gptq-w4g32", "--calib", str(text), *few, "-o", str(tmp_path / name / "gptq"))
        run("calibrate", *source, "--data", str(text), *few, "-o", str(tmp_path / f"{name}.gguf"))
    for made in ("w8a16", "gptq"):
        a, b = (load_file(tmp_path / name / made / "model.safetensors") for name in "ab")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[tensor], b[tensor]) for tensor in a), made
    a, b = ({t.name: t.data.tobytes() for t in GGUFReader(tmp_path / f"{name}.gguf").tensors} for name in "ab")
    assert a == b


def test_a_gguf_base_gives_what_its_checkpoint_gives(base: Path, adapter: Path, tmp_path: Path) -> None:
    run("convert", str(base), "--to", "bf16", "-o", str(tmp_path / "base.gguf"))
    run("convert", str(base), "--adapter", str(adapter), "--to", "q8_0", "-o", str(tmp_path / "wanted.gguf"))
    merge = [str(tmp_path / "base.gguf"), "--adapter", str(adapter)]
    run("convert", *merge, "--to", "q8_0", "-o", str(tmp_path / "merged.gguf"))
    assert tensors(tmp_path / "merged.gguf") == tensors(tmp_path / "wanted.gguf")
    source = json.loads((tmp_path / "merged.manifest.json").read_text())["source"]
    assert (source["kind"], source["adapters"][0]["name"]) == ("gguf", "tuned")
    run("verify", str(tmp_path / "merged.gguf"), "--against", *merge)
    run("verify", str(tmp_path / "merged.gguf"), "--against", str(tmp_path / "base.gguf"), code=7)


def test_a_gguf_base_of_few_bits_is_asked_for(base: Path, adapter: Path, tmp_path: Path) -> None:
    run("convert", str(base), "--to", "q4_0", "-o", str(tmp_path / "base.gguf"))
    merge = [str(tmp_path / "base.gguf"), "--adapter", str(adapter), "--to", "q8_0", "-o", str(tmp_path / "out.gguf")]
    assert "--allow-requantize" in run("convert", *merge, code=4).stderr
    run("convert", *merge, "--allow-requantize")
    assert tensors(tmp_path / "out.gguf") != tensors(tmp_path / "base.gguf")


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    """The folder says a size, as names of models do, and the adapter a repository: two names of models."""
    folder = tmp_path / "Small-1.1B-Instruct"
    shutil.copytree(base, folder)
    other = make_adapter(tmp_path / "lora", weights_of(base), base="org/Small-1.1B")
    out = ["--to", "bf16", "-o", str(tmp_path / "out.gguf")]
    failed = run("convert", str(folder), "--adapter", str(other), *out, code=3)
    assert "trained on org/Small-1.1B, the source is Small-1.1B-Instruct" in failed.stderr
    data = ["--data", str(tmp_path / "text.txt"), "-o", str(tmp_path / "x.dat")]
    run("calibrate", str(folder), "--adapter", str(other), *data, code=3)
    told = run("convert", str(folder), "--adapter", str(other), "--allow-other-base", *out)
    assert "trained on org/Small-1.1B, the source is Small-1.1B-Instruct" in told.stderr
    run("verify", str(tmp_path / "out.gguf"), "--against", str(folder), "--adapter", str(other))

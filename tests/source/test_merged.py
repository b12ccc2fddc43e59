"""LoRA adapters merged into their base model: every kind against an oracle in float64, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import tower_table
from adapters import Lora, make_adapter, merged, weights_of
from commands import quantkit
from safetensors.numpy import load_file, save_file

from quantkit.errors import InputError, QuantkitError
from quantkit.events import Event, Warned
from quantkit.source import open_source
from quantkit.source.adapter_base import require_base
from quantkit.source.merged import MergedCheckpoint

KINDS: dict[str, tuple[str, tuple[Lora, ...]]] = {
    "plain": ("llama-untied-gqa", (Lora(),)),
    "rslora": ("llama-untied-gqa", (Lora(settings={"use_rslora": True}),)),
    "patterns": (
        "llama-untied-gqa",
        (Lora(settings={"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"up_proj": 3.0}}),),
    ),
    "one-module": ("llama-untied-gqa", (Lora(modules=("down_proj",), rank=1),)),
    "embedding": ("llama-untied-gqa", (Lora(embedding=True),)),
    "modules-to-save": ("llama-untied-gqa", (Lora(saved=("lm_head.weight", "model.norm.weight")),)),
    "dora": ("llama-untied-gqa", (Lora(settings={"use_dora": True}),)),
    "two": ("llama-untied-gqa", (Lora(), Lora(modules=("q_proj", "up_proj"), rank=2, seed=1))),
    "two-dora": ("llama-untied-gqa", (Lora(settings={"use_dora": True}), Lora(settings={"use_dora": True}, seed=1))),
    "biases": ("qwen2-untied", (Lora(modules=("q_proj", "v_proj"), biases=True),)),
    "transposed": ("gpt2", (Lora(modules=("c_attn", "c_fc"), settings={"fan_in_fan_out": True}),)),
    "transposed-dora": ("gpt2", (Lora(modules=("c_attn",), settings={"fan_in_fan_out": True, "use_dora": True}),)),
    "shards": ("llama-sharded", (Lora(),)),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base(name: str) -> Path:
        if name not in made:
            made[name] = checkpoints.build(name, tmp_path_factory.mktemp("bases"))
        return made[name]

    return base


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_formula(kind: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    name, loras = KINDS[kind]
    weights = weights_of(bases(name))
    made = [(make_adapter(tmp_path / f"a{n}", weights, lora), lora) for n, lora in enumerate(loras)]
    expected = merged(weights, made)
    source = open_source(str(bases(name)), adapters=[str(folder) for folder, _ in made])
    changed = 0
    for tensor, info in source.tensors().items():
        got = source.ref(tensor).read(0, info.rows).reshape(info.shape)
        np.testing.assert_allclose(
            got, expected[tensor], rtol=3e-7, atol=1e-8 if len(made) > 1 else 1e-9, err_msg=tensor
        )
        if not np.array_equal(expected[tensor], weights[tensor]):
            assert info.dtype == "F32", tensor
            changed += 1
            # rows have the same bits whichever others they are read with
            third = max(info.rows // 3, 1)
            pieces = [source.ref(tensor).read(i, min(i + third, info.rows)) for i in range(0, info.rows, third)]
            assert np.concatenate(pieces).reshape(info.shape).tobytes() == got.tobytes(), tensor
    assert changed == sum(not np.array_equal(expected[tensor], weights[tensor]) for tensor in weights) > 0
    assert [file.name for file in source.files() if file.name.startswith("adapters/1/")] == [
        "adapters/1/adapter_model.safetensors", "adapters/1/adapter_config.json",
    ]  # fmt: skip
    source.close()


@pytest.mark.parametrize("tower", ["pixtral", "internvl"])
def test_an_adapter_of_a_model_that_sees_finds_its_modules(tower: str, tmp_path: Path) -> None:
    """PEFT names modules as they are called in memory; the checkpoint has the names that it was published with. Neither
    the architecture of the whole is a language model's, nor are all modules the language model's."""
    folder = tower_table.build(tower, tmp_path)
    weights = {name: w for name, w in weights_of(folder).items() if name.endswith("q_proj.weight")}
    called = {in_memory(name): w for name, w in weights.items()}
    assert called.keys().isdisjoint(weights)
    assert {"vision" in name for name in weights} == {True, False}
    adapter = make_adapter(tmp_path / "adapter", called, Lora(modules=("q_proj",)))
    expected = merged(called, [(adapter, Lora())])
    source = open_source(str(folder), adapters=[str(adapter)])
    for name, weight in weights.items():
        got = source.ref(name).read(0, weight.shape[0])
        np.testing.assert_allclose(got, expected[in_memory(name)], rtol=3e-7, atol=1e-9, err_msg=name)
        assert not np.array_equal(got, weight)
    source.close()
    out = tmp_path / "out"
    assert quantkit("convert", folder, "--to", "hf-f32", "--adapter", adapter, "-o", out).status == 0
    made = weights_of(out)
    assert made.keys() == weights_of(folder).keys()
    for name in weights:
        np.testing.assert_allclose(made[name], expected[in_memory(name)], rtol=3e-7, atol=1e-9, err_msg=name)
    said = json.loads((folder / "config.json").read_text())["architectures"][0]
    assert json.loads((out / "model.manifest.json").read_text())["model"]["architecture"] == said


def in_memory(name: str) -> str:
    """What transformers 5 calls a module of a checkpoint with an encoder."""
    text = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return text if text != name else f"model.{name}"


def _edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config))

    return change


def _tensors(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)

    return change


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another-kind": (_edited(lambda c: c.update(peft_type="IA3")), "unsupported", "IA3"),
    "replicated": (_edited(lambda c: c.update(layer_replication=[[0, 2]])), "unsupported", "layer_replication"),
    "parameters": (_edited(lambda c: c.update(target_parameters=["experts"])), "unsupported", "target_parameters"),
    "activated": (_edited(lambda c: c.update(alora_invocation_tokens=[3])), "unsupported", "alora_invocation_tokens"),
    "pissa": (_edited(lambda c: c.update(init_lora_weights="pissa_niter_4")), "unsupported", "pissa_niter_4"),
    "no-rank": (_edited(lambda c: c.pop("r")), "input", "r is missing"),
    "zero-rank": (_edited(lambda c: c.update(r=0)), "input", "r is 0"),
    "other-rank": (_edited(lambda c: c.update(r=5)), "input", "the rank is 5"),
    "no-alpha": (_edited(lambda c: c.update(lora_alpha="8")), "input", "lora_alpha is '8'"),
    "text-for-flag": (_edited(lambda c: c.update(use_rslora="yes")), "input", "use_rslora is 'yes'"),
    "patterns-no-object": (_edited(lambda c: c.update(rank_pattern=[1])), "input", "rank_pattern"),
    "pattern-cannot-be-matched": (_edited(lambda c: c.update(rank_pattern={"(?=q)": 2})), "input", "(?=q)"),
    "dora-without-magnitudes": (_edited(lambda c: c.update(use_dora=True)), "input", "magnitudes"),
    "no-b": (_tensors(lambda t: t.pop(f"{Q}.lora_B.weight")), "input", "lacks lora_B"),
    "unknown-part": (_tensors(lambda t: t.update({f"{Q}.lora_C.weight": t[f"{Q}.lora_A.weight"]})), "input", "lora_C"),
    "other-width": (
        _tensors(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 63), np.float32)})), "input", "[64, 63]",
    ),
    "no-such-layer": (
        _tensors(lambda t: t.update({k.replace("layers.0", "layers.7"): v for k, v in list(t.items()) if Q in k})),
        "input", "model.layers.7.self_attn.q_proj",
    ),
    "larger-vocabulary": (
        _tensors(lambda t: t.update({"base_model.model.lm_head.weight": np.zeros((2050, 64), np.float32)})),
        "input", "[2050, 64]",
    ),
    "integers": (
        _tensors(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 64), np.int32)})), "unsupported", "I32",
    ),
    "empty": (_tensors(lambda t: t.clear()), "input", "no tensors"),
    "damaged": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x08" * 20), "input", "adapter_model"),
    "no-weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "input", "no weights"),
    "no-object": (lambda f: (f / "adapter_config.json").write_text("[]"), "input", "adapter_config.json"),
    "no-config": (lambda f: (f / "adapter_config.json").unlink(), "usage", "adapter_config.json"),
    "pickle": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "input", "pickle",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_adapter_of_this_model_is_refused(case: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    change, code, words = BAD[case]
    folder = make_adapter(tmp_path / "adapter", weights_of(bases("llama-untied-gqa")))
    open_source(str(bases("llama-untied-gqa")), adapters=[str(folder)]).close()
    change(folder)
    with pytest.raises(QuantkitError) as caught:
        open_source(str(bases("llama-untied-gqa")), adapters=[str(folder)])
    assert caught.value.code == code and caught.value.hint
    assert words in caught.value.message


SAME, OTHER, UNKNOWN = "same", "other", "unknown"
NAMES = [  # what the adapter says, what the source is called, its repository, _name_or_path: what is known
    ("org/Model-7B", "Model-7B", None, None, SAME),
    ("org/Model-7B", "model_7b", None, None, SAME),
    ("other/model-7b-hf", "Model-7B", "org/Model-7B", None, SAME),
    ("unsloth/Model-7B-unsloth-bnb-4bit", "Model-7B", None, None, SAME),
    ("unsloth/model-7b-bnb-4bit", "Meta-Model-7B", "meta-model/Meta-Model-7B", None, SAME),
    ("org/Model-7B@main", "Model-7B", None, None, SAME),
    ("/home/x/Model-7B/", "Model-7B", None, None, SAME),
    ("C:\\models\\Model-7B", "Model-7B", None, None, SAME),
    ("/cache/models--org--Model-7B/snapshots/0123", "m", "else/Model-7B", None, SAME),
    ("org/Model-7B", "Model-7B-Q8_0", None, None, SAME),
    ("org/Model-7B", "model", None, "org/Model-7B", SAME),
    ("org/Model-7B", "Tuned-7B", None, "org/Model-7B", SAME),
    ("gpt2", "gpt2", None, None, SAME),
    ("org/Model-7B", "Model-7B-Instruct", None, None, OTHER),
    ("org/Model-7B-v0.1", "Model-7B-v0.3", None, None, OTHER),
    ("org/Model-7B", "Model-13B-Q4_K_M", None, None, OTHER),
    ("org/Model-7B", "Model-7B", "org/Other-7B", None, OTHER),
    ("org/Model-7B", "Tuned-7B", "org/Tuned-7B", "org/Model-7B", OTHER),
    ("org/Model-7B", "model", None, "org/Other-7B", OTHER),
    ("/cache/models--org--Model-7B/snapshots/0123", "m", "else/Other-7B", None, OTHER),
    ("org/Model-7B", "model", None, None, UNKNOWN),
    ("org/Model-7B", "model", None, "/home/x/Other-7B", UNKNOWN),
    ("/home/x/mine", "Model-7B", "org/Model-7B", None, UNKNOWN),
    ("./out/Model-7B", "Other-7B", None, None, UNKNOWN),
    (None, "Model-7B", "org/Model-7B", None, UNKNOWN),
]


@pytest.mark.parametrize(("said", "name", "repo", "config", "known"), NAMES)
def test_another_base_is_refused_where_both_are_known(
    said: str | None, name: str, repo: str | None, config: str | None, known: str, merged_model: MergedCheckpoint
) -> None:
    [adapter] = merged_model.adapters
    base = replace(merged_model.base, name=name, repo=repo, config={"_name_or_path": config})
    found = replace(merged_model, base=base, adapters=(replace(adapter, config=replace(adapter.config, base=said)),))
    heard: list[Event] = []
    if known == OTHER:
        with pytest.raises(InputError, match="another model") as caught:
            require_base(found, heard.append, allow_other=False)
        assert "--allow-other-base" in (caught.value.hint or "")
        assert heard == []
        require_base(found, heard.append, allow_other=True)
    else:
        require_base(found, heard.append, allow_other=False)
    assert [event.code for event in heard if isinstance(event, Warned)] == ["adapter-base"] * (known != SAME)


@pytest.fixture
def merged_model(bases: Callable[[str], Path], tmp_path: Path) -> Iterator[MergedCheckpoint]:
    adapter = make_adapter(tmp_path / "adapter", weights_of(bases("llama-untied-gqa")))
    with closing(open_source(str(bases("llama-untied-gqa")), adapters=[str(adapter)])) as found:
        assert isinstance(found, MergedCheckpoint)
        yield found


def test_names_as_modules_have_them_in_memory(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint saved without the prefix of its head, an adapter trained with it: Qwen3-Embedding."""
    weights = {f"model.{name}": weight for name, weight in weights_of(bases("Qwen3-Embedding-0.1B")).items()}
    source = open_source(
        str(bases("Qwen3-Embedding-0.1B")),
        adapters=[str(make_adapter(tmp_path / "a", weights, Lora(modules=("q_proj",))))],
    )
    changed = [name for name, info in source.tensors().items() if info.dtype == "F32"]
    assert changed == [f"layers.{n}.self_attn.q_proj.weight" for n in range(len(changed))] != []
    source.close()

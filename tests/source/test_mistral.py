"""Mistral's own layout: the same model written both ways becomes the same files; what cannot is refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import quantkit
from hub_server import HubState, new_cache, serve
from llama_folder import TOKENIZER, Stored, encode, store
from mistral_folder import own_name, own_params, own_rows, shapes, write_own, write_sparse
from real_folders import REALITY, needs_reality, read_config
from reference import REFERENCE

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.events import Event, Warned
from quantkit.formats.gguf.file import read_gguf
from quantkit.source import open_source
from quantkit.source.hub import Hub, fetch

DENSE: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "head_dim": 32, "hidden_act": "silu",
    "hidden_size": 96, "intermediate_size": 160, "max_position_embeddings": 1024, "model_type": "mistral",
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 2048,
}  # fmt: skip
MIXTURE = DENSE | {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2
}  # fmt: skip
CONFIGS = {"dense": DENSE, "mixture": MIXTURE}
SIDES = [TOKENIZER / "tokenizer.model", TOKENIZER / "tokenizer_config.json"]


def tensors_of(config: Mapping[str, Any]) -> dict[str, Stored]:
    random = np.random.default_rng(5)
    return {n: store(random.normal("norm" in n, 0.05, size), "BF16") for n, size in shapes(config).items()}


def both(root: Path, config: Mapping[str, Any], shards: int = 1) -> tuple[Path, Path]:
    """The same model as transformers saves it and as Mistral does, in folders of the same name."""
    tensors = tensors_of(config)
    theirs = root / "transformers" / "tiny"
    theirs.mkdir(parents=True)
    (theirs / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    (theirs / "model.safetensors").write_bytes(encode(tensors))
    for path in SIDES:
        shutil.copyfile(path, theirs / path.name)
    return theirs, write_own(root / "own" / "tiny", tensors, own_params(config), SIDES, shards)


def files_of(folder: Path) -> dict[str, bytes]:
    """What was made, without what says where it was made of."""
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if p.name != "SHA256SUMS" and not p.name.endswith("manifest.json")
    }


@pytest.mark.parametrize("recipe", ["bf16", "q4_k_m", "w8a16", "hf-bf16"])
@pytest.mark.parametrize(("kind", "shards"), [("dense", 1), ("mixture", 3)])
def test_both_layouts_become_the_same_files(kind: str, shards: int, recipe: str, tmp_path: Path) -> None:
    made = []
    for folder in both(tmp_path, CONFIGS[kind], shards):
        out = folder.parent / "out"
        done = quantkit("convert", folder, "--to", recipe, "--out", out)
        assert done.status == 0, done.stderr
        checked = quantkit("verify", next(out.glob("*.gguf"), out), "--against", folder)
        assert checked.status == 0, checked.stderr
        made.append(files_of(out))
    assert made[0] == made[1]
    assert made[0]


def test_calibration_sees_the_same_model(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All that is gold does not glitter, not all those who wander are lost. " * 40)
    found = []
    for folder in both(tmp_path, DENSE):
        out = folder.parent / "statistics.safetensors"
        done = quantkit("calibrate", folder, "--data", text, "--samples", 2, "--seqlen", 32, "-o", out)
        assert done.status == 0, done.stderr
        found.append(out.read_bytes())
    assert found[0] == found[1]


@pytest.mark.slow
def test_engines_accept_what_is_made(tmp_path: Path) -> None:
    _, own = both(tmp_path, DENSE | {"max_position_embeddings": 64})  # less than the windows of the check
    for recipe, engine in (("q8_0", "llama.cpp"), ("w8a16", "torch")):
        out = tmp_path / recipe
        assert quantkit("convert", own, "--to", recipe, "--out", out).status == 0
        seen = quantkit("verify", next(out.glob("*.gguf"), out), "--against", own, "--engine", engine)
        assert seen.status == 0, seen.stderr


REFERENCE_RUN = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion.base, gguf
from conversion.llama import LlamaModel
from conversion.mistral import MistralModel
conversion.base._mistral_common_installed = True  # it is wanted for the tokenizer alone
MistralModel.set_vocab = LlamaModel._set_vocab_sentencepiece
MistralModel(Path(sys.argv[2]), gguf.LlamaFileType.GUESSED, Path(sys.argv[3])).write()
"""


YARN = {"factor": 4.0, "original_max_position_embeddings": 256, "beta": 32.0, "alpha": 1.0, "apply_scale": True}


@pytest.mark.parametrize("more", [{}, {"yarn": YARN}], ids=["plain", "yarn"])
def test_tensors_and_numbers_are_those_of_the_reference_converter(more: dict[str, Any], tmp_path: Path) -> None:
    if not REFERENCE.is_dir():
        pytest.skip("no reference converter: make reference")
    _, own = both(tmp_path, DENSE)
    (own / "params.json").write_text(json.dumps(own_params(DENSE) | more))
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, "-c", REFERENCE_RUN, str(REFERENCE), str(own), str(theirs)]
    subprocess.run(command, check=True, capture_output=True)
    assert quantkit("convert", own, "--to", "bf16", "--out", tmp_path / "out").status == 0
    [ours] = (tmp_path / "out").glob("*.gguf")
    a, b = (read_gguf(path) for path in (ours, theirs))
    by_name = {tensor.name: tensor for tensor in b.tensors}  # ours are in llama-quantize's order
    assert by_name.keys() == {tensor.name for tensor in a.tensors}
    for tensor in a.tensors:
        other = by_name[tensor.name]
        assert (tensor.shape, tensor.qtype) == (other.shape, other.qtype)
        mine, its = ours.read_bytes()[tensor.offset :], theirs.read_bytes()[other.offset :]
        assert mine[: tensor.nbytes] == its[: other.nbytes], tensor.name
    values, wanted = ({e.key: e.value for e in found.metadata if e.key.startswith("llama.")} for found in (a, b))
    del values["llama.vocab_size"], values["llama.context_length"]  # there it is left out: max_seq_len is not read
    wanted.pop("llama.vocab_size", None)
    assert wanted.pop("llama.rope.scaling.yarn_log_multiplier", 0.0) == 0.0  # which changes nothing
    assert values == wanted


@pytest.mark.parametrize("name", ["layers.0.attention.wq.weight", "layers.1.attention.wk.weight"])
def test_any_rows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    _, own = both(tmp_path, DENSE)
    wanted = {own_name(n): (n, t) for n, t in tensors_of(DENSE).items()}
    new, tensor = wanted[name]
    whole = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], -1)
    source = open_source(str(own))
    ref = source.ref(new)
    for start in range(0, len(whole), 5):
        for stop in (start, start + 1, start + 16, start + 33, start + 65, len(whole)):
            stop = min(stop, len(whole))
            assert np.array_equal(ref.read_packed(start, stop), whole[start:stop]), (start, stop)
    values = (whole.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(ref.read(3, 50), values[3:50])
    source.close()


def test_rows_are_read_in_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head as large as the tensor is not read whole for some of its rows."""
    config = DENSE | {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 512}
    source = open_source(str(both(tmp_path, config)[1]))
    ref = source.ref("model.layers.0.self_attn.q_proj.weight")
    read: list[int] = []
    own = type(ref.source).read  # type: ignore[attr-defined]
    monkeypatch.setattr(
        type(ref.source),  # type: ignore[attr-defined]
        "read",
        lambda self, start, stop: read.append(stop - start) or own(self, start, stop),
    )
    ref.read_packed(250, 260)
    assert sum(read) == 2 * 10 * 96 * 2
    source.close()


UNREAD: dict[str, tuple[dict[str, Any], type[QuantkitError], str]] = {
    "vision": ({"vision_encoder": {"hidden_size": 8}}, InputError, "vision_encoder.image_size"),
    "adapter": ({"lora": {"rank": 8}}, UnsupportedError, "lora"),
    "quantized": ({"quantization": {"qformat_weight": "nf4"}}, UnsupportedError, "quantization.qformat_weight"),
    "scales": ({"quantization": {"qformat_weight": "fp8_e4m3", "group": 8}}, UnsupportedError, "quantization.group"),
    "temperature": ({"llama_4_scaling": {"beta": 0.1}}, UnsupportedError, "llama_4_scaling"),
    "latent attention": ({"kv_lora_rank": 512}, UnsupportedError, "kv_lora_rank"),
    "another model": ({"model_type": "mamba"}, UnsupportedError, "model_type"),
    "Meta's": ({"multiple_of": 256, "norm": 1}, UnsupportedError, "multiple_of"),
    "windows": ({"sliding_window": [None, 32, 32]}, UnsupportedError, "sliding_window"),
    "shared experts": (
        {"moe": {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1}},
        UnsupportedError,
        "moe.num_shared_experts",
    ),
    "yarn": ({"yarn": {"factor": 4.0, "mscale": 1.0}}, UnsupportedError, "yarn.mscale"),
    "half of yarn": ({"yarn": {"factor": 4.0}}, InputError, "yarn.original_max_position_embeddings"),
    "no experts": ({"moe": {"num_experts": 0, "num_experts_per_tok": 2}}, InputError, "moe.num_experts"),
    "moe": ({"moe": 8}, InputError, "moe"),
    "text": ({"dim": "96"}, InputError, "dim"),
    "missing": ({"n_layers": None}, InputError, "n_layers"),
    "no epsilon": ({"norm_eps": None}, InputError, "norm_eps"),
    "negative": ({"vocab_size": -1}, InputError, "vocab_size"),
    "true": ({"n_heads": True}, InputError, "n_heads"),
    "zero": ({"head_dim": 0}, InputError, "head_dim"),
    "odd": ({"head_dim": 31}, InputError, "head_dim"),
    "other heads": ({"head_dim": 96}, InputError, "head_dim"),
    "window": ({"sliding_window": "wide"}, InputError, "sliding_window"),
}


@pytest.mark.parametrize("which", UNREAD)
def test_what_is_not_read_is_named(which: str, tmp_path: Path) -> None:
    changes, kind, key = UNREAD[which]
    _, own = both(tmp_path, DENSE)
    (own / "params.json").write_text(json.dumps(own_params(DENSE) | changes))
    with pytest.raises(kind, match=key.rpartition(".")[2]) as caught:
        open_source(str(own))
    assert type(caught.value) is kind
    assert caught.value.key == key
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.patch_conv.weight",
        "layers.0.attention.wq.lora_A.weight",
        "layers.0.attention.wq.qscale_weight",
        "layers.0.attention.wkv_b.weight",
        "layers.0.experts.0.w1.weight",
        "layers.0.attention_norm.bias",
        "layers..attention.wq.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "rope.freqs",
    ],
)
def test_tensors_without_a_counterpart_are_named(name: str, tmp_path: Path) -> None:
    own = write_own(tmp_path / "m", {}, own_params(DENSE))
    (own / "consolidated.safetensors").write_bytes(encode({name: store(np.ones((4, 4)), "BF16")}))
    seen = quantkit("plan", own, "--to", "bf16")
    assert seen.status == 4
    assert name in seen.stderr


def test_inspect_shows_what_is_not_read(tmp_path: Path) -> None:
    params = own_params(DENSE) | {"lora": {"rank": 8}}
    own = write_own(tmp_path / "m", tensors_of(DENSE), params)
    assert quantkit("plan", own, "--to", "bf16").status == 4
    seen = quantkit("inspect", own)
    assert seen.status == 0, seen.stderr
    assert "shown as stored" in seen.stderr
    assert "n_kv_heads = 2" in seen.stdout


def test_missing_tensors_are_named_as_in_transformers(tmp_path: Path) -> None:
    tensors = tensors_of(DENSE)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    own = write_own(tmp_path / "m", tensors, own_params(DENSE), SIDES)
    seen = quantkit("plan", own, "--to", "bf16")
    assert seen.status != 0
    assert "model.layers.1.mlp.up_proj.weight" in seen.stderr


def test_yarn_windows_and_ties_are_translated(tmp_path: Path) -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 256, "beta": 32.0, "alpha": 1.0, "apply_scale": False}
    tensors = tensors_of(DENSE)
    del tensors["lm_head.weight"]
    more = {"yarn": yarn, "sliding_window": "512", "tied_embeddings": True, "vision_encoder": None, "causal": True}
    params = own_params(DENSE) | more
    del params["head_dim"], params["n_kv_heads"], params["rope_theta"]
    config = open_source(
        str(write_own(tmp_path / "m", {"lm_head.weight": tensors["model.norm.weight"]}, params))
    ).config
    assert config["rope_scaling"] == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 32.0,
        "beta_slow": 1.0, "attention_factor": 1.0,
    }  # fmt: skip
    assert (config["sliding_window"], config["tie_word_embeddings"]) == (512, True)
    assert (config["head_dim"], config["num_key_value_heads"], config["rope_theta"]) == (24, 4, 10000.0)
    assert (
        "attention_factor"
        not in open_source(
            str(
                write_own(
                    tmp_path / "scaled",
                    {"lm_head.weight": tensors["model.norm.weight"]},
                    params | {"yarn": yarn | {"apply_scale": True}},
                )
            )
        ).config["rope_scaling"]
    )


def test_a_folder_with_both_layouts_is_read_once(tmp_path: Path) -> None:
    theirs, own = both(tmp_path, DENSE)
    for path in own.iterdir():
        shutil.copyfile(path, theirs / path.name)
    (theirs / "params.json").write_text('{"lora": {"rank": 8}}')  # none of its business
    source = open_source(str(theirs))
    assert [file.name for file in source.files() if file.weights] == ["model.safetensors"]
    assert set(source.tensors()) == set(shapes(DENSE))
    assert "params.json" in source.carried()
    source.close()


def test_a_config_beside_says_what_params_do_not(tmp_path: Path) -> None:
    params = own_params(DENSE)
    del params["max_seq_len"]
    own = write_own(tmp_path / "m", tensors_of(DENSE), params, SIDES)
    events: list[Event] = []
    source = open_source(str(own), emit=events.append)
    assert source.config["max_position_embeddings"] == 131072
    assert [e.code for e in events if isinstance(e, Warned)] == ["context-length"]
    events.clear()
    (own / "config.json").write_text(json.dumps(DENSE | {"hidden_size": 7}))
    beside = open_source(str(own), emit=events.append)
    assert beside.config == DENSE
    assert events == []


def test_the_versioned_tokenizer_is_the_tokenizer(tmp_path: Path) -> None:
    theirs, own = both(tmp_path, DENSE)
    (own / "tokenizer.model").rename(own / "tokenizer.model.v3")
    (own / "tokenizer.model.v1").write_bytes(b"older")
    made = []
    for folder in (theirs, own):
        out = folder.parent / "out"
        assert quantkit("convert", folder, "--to", "bf16", "--out", out).status == 0
        made.append(files_of(out))
        server = folder.parent / "server"
        assert quantkit("convert", folder, "--to", "hf-bf16", "--out", server).status == 0
        made.append(files_of(server))
    assert made[:2] == made[2:]


def test_without_params_the_layout_is_named(tmp_path: Path) -> None:
    own = write_own(tmp_path / "m", tensors_of(DENSE), own_params(DENSE))
    (own / "params.json").unlink()
    seen = quantkit("plan", own, "--to", "bf16")
    assert seen.status == 4
    assert "Mistral's own layout" in seen.stderr
    assert "params.json" in seen.stderr


def test_an_index_that_does_not_fit_is_named(tmp_path: Path) -> None:
    own = write_own(tmp_path / "m", tensors_of(DENSE), own_params(DENSE), SIDES, shards=2)
    index = own / "consolidated.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["layers.9.ffn_norm.weight"] = "consolidated-00001-of-00002.safetensors"
    index.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"consolidated.safetensors.index.json names tensors that no shard holds"):
        open_source(str(own))
    (own / "consolidated-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="1 of 2 shards are missing"):
        open_source(str(own))
    index.unlink()
    with pytest.raises(InputError, match="1 of 2 shards are missing"):
        open_source(str(own))


REPO = "mistralai/Tiny"


@pytest.fixture
def hub_state(tmp_path: Path) -> Iterator[HubState]:
    own = write_own(tmp_path / "m", tensors_of(DENSE), own_params(DENSE), SIDES, shards=2)
    files = {path.name: path.read_bytes() for path in own.iterdir()}
    files |= {"tokenizer.model.v3": files["tokenizer.model"], "pytorch_model.bin": b"pickle"}
    del files["tokenizer.model"]
    with serve(HubState(REPO, {"a" * 40: files}, {"main": "a" * 40}, large=frozenset())) as state:
        yield state


def test_it_is_fetched_from_the_hub(hub_state: HubState, tmp_path: Path) -> None:
    folder = fetch(REPO, None, Hub(endpoint=hub_state.endpoint, cache=new_cache(tmp_path)), lambda event: None)
    assert {path.name for path in folder.iterdir()} == set(hub_state.commits["a" * 40]) - {"pytorch_model.bin"}
    source = open_source(str(folder))
    assert set(source.tensors()) == set(shapes(DENSE))
    source.close()


@needs_reality
def test_devstral_as_published(tmp_path: Path) -> None:
    """Its params.json at full size, against its own config.json: planned to the byte, nothing is read."""
    published = read_config("devstral-small-2507")
    params = json.loads((REALITY / "devstral-small-2507" / "params.json").read_bytes())
    folder = write_sparse(tmp_path / "devstral", published, params)
    source = open_source(str(folder))
    assert {key: published[key] for key in source.config} == dict(source.config)
    source.close()
    seen = quantkit("plan", folder, "--to", "w8a16", "--json")
    assert seen.status == 0, seen.stderr
    [plan] = seen.json["plans"]
    linears = [s for n, s in shapes(published).items() if ".layers." in n and len(s) == 2]
    weights = next(row["weights"] for row in plan["size"]["types"] if row["type"].startswith("int8"))
    assert weights == sum(rows * cols for rows, cols in linears)


@needs_reality
def test_devstral_scaled_down(tmp_path: Path) -> None:
    params = json.loads((REALITY / "devstral-small-2507" / "params.json").read_bytes())
    params |= {"dim": 96, "n_layers": 2, "hidden_dim": 160, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32}
    params["vocab_size"] = 2048
    tensors = tensors_of(DENSE)
    own = write_own(tmp_path / "devstral", tensors, params, SIDES)
    done = quantkit("convert", own, "--to", "q4_k_m", "--out", tmp_path / "out")
    assert done.status == 0, done.stderr
    assert "max_position_embeddings" in done.stderr  # 131,072 are written, with a warning


def test_the_helper_is_its_own_inverse_where_heads_have_two_rows() -> None:
    tensor = store(np.arange(8).reshape(4, 2), "F32")
    assert own_rows("x.q_proj.weight", tensor, 2) == tensor
    mixed = own_rows("x.q_proj.weight", tensor, 4)
    assert np.frombuffer(mixed.data, np.float32).reshape(4, 2)[:, 0].tolist() == [0, 4, 2, 6]


# --- FP8 -------------------------------------------------------------------------------------------------------------


def fp8_folders(root: Path) -> tuple[Path, Path]:
    """The same model in FP8 with a scale for each matrix, as transformers has it and as Mistral published it."""
    theirs, own = both(root, DENSE)
    random = np.random.default_rng(9)
    tensors: dict[str, Stored] = {}
    for name, tensor in tensors_of(DENSE).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        raw = random.integers(0, 0x7F, tensor.shape, np.uint8) | random.integers(0, 2, tensor.shape, np.uint8) << 7
        tensors[name] = Stored("F8_E4M3", tensor.shape, raw.tobytes())
        scale = Stored("BF16", (), store(np.array([random.uniform(1e-4, 2e-4)]), "BF16").data)
        tensors[name.replace(".weight", ".weight_scale_inv")] = scale
        tensors[name.replace(".weight", ".activation_scale")] = store(np.full(1, 0.02), "BF16")
    (theirs / "model.safetensors").write_bytes(encode(tensors))
    config = json.loads((theirs / "config.json").read_text())
    said = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    (theirs / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    named = {}
    for name, tensor in tensors.items():
        plain = name.replace(".weight_scale_inv", ".weight").replace(".activation_scale", ".weight")
        end = {".weight_scale_inv": ".qscale_weight", ".activation_scale": ".qscale_act"}
        suffix = next((new for old, new in end.items() if name.endswith(old)), None)
        if suffix is None:
            named[own_name(name)] = own_rows(name, tensor, DENSE["head_dim"])
        else:
            named[own_name(plain).replace(".weight", suffix)] = tensor
    (own / "consolidated.safetensors").write_bytes(encode(named))
    quantization = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    (own / "params.json").write_text(json.dumps({**own_params(DENSE), "quantization": quantization}))
    return theirs, own


def test_fp8_of_both_layouts_becomes_the_same_file(tmp_path: Path) -> None:
    theirs, own = fp8_folders(tmp_path)
    for number, folder in enumerate((theirs, own)):
        done = quantkit("convert", folder, "--to", "bf16", "-o", tmp_path / f"{number}" / "out.gguf", "--no-verify")
        assert done.status == 0, done.stderr
    assert (tmp_path / "0" / "out.gguf").read_bytes() == (tmp_path / "1" / "out.gguf").read_bytes()
    seen = quantkit("plan", own, "--to", "q4_k_m")
    assert seen.status == 0, seen.stderr
    assert "stores its weights in 8 bits" in seen.stderr

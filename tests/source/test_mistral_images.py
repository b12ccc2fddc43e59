"""Models that see in Mistral's own layout: both files are those of the same model as transformers saves it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import tower_table
from commands import quantkit
from gguf import GGUFReader
from llama_folder import Stored, encode
from mistral_folder import own_name, own_params, own_rows
from reference import REFERENCE

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.source import open_source

HEAD = 16  # of the text model and of the encoder
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
SIDES = ("tokenizer.json", "tokenizer_config.json")
OWN = {
    r"^vision_tower\.": "vision_encoder.",
    r"^multi_modal_projector\.norm\.": "pre_mm_projector_norm.",
    r"^multi_modal_projector\.patch_merger\.": "patch_merger.",
    r"^multi_modal_projector\.linear_1\.": "vision_language_adapter.w_in.",
    r"^multi_modal_projector\.linear_2\.": "vision_language_adapter.w_out.",
    r"\.attention\.([qkvo])_proj\.": r".attention.w\1.",
    r"\.feed_forward\.gate_proj\.": ".feed_forward.w1.",
    r"\.feed_forward\.down_proj\.": ".feed_forward.w2.",
    r"\.feed_forward\.up_proj\.": ".feed_forward.w3.",
}
NAMES = pytest.mark.parametrize("name", ["pixtral", "mistral3"])


def respelled(name: str) -> str:
    """The name that Mistral gives to a tensor."""
    name = name.removeprefix("model.")
    if not name.startswith(("vision_tower.", "multi_modal_projector.")):
        text = name.removeprefix("language_model.").removeprefix("model.")
        return own_name(text if text.startswith("lm_head") else f"model.{text}")
    for pattern, to in OWN.items():
        name = re.sub(pattern, to, name)
    return name


def both(name: str, root: Path) -> tuple[Path, Path]:
    """The same model in both layouts, in folders of one name."""
    import torch
    from safetensors.torch import load_file

    entry = tower_table.TABLE[name]
    seeing = {**entry.config["vision_config"], "hidden_act": "silu"}
    reading = {**entry.config["text_config"], "rms_norm_eps": 1e-5}
    entry = replace(entry, processor=CLIP, config={**entry.config, "vision_config": seeing, "text_config": reading})
    theirs = tower_table.write(entry, root / "transformers" / name)
    own = root / "own" / name
    own.mkdir(parents=True)
    stored = {}
    for key, tensor in load_file(theirs / "model.safetensors").items():
        data = tensor.contiguous().view(torch.int16).numpy()
        whole = Stored("BF16", tuple(tensor.shape), data.tobytes())
        stored[respelled(key)] = own_rows(key, whole, HEAD)
    (own / "consolidated.safetensors").write_bytes(encode(stored))
    (own / "params.json").write_text(json.dumps(params_of(json.loads((theirs / "config.json").read_text()))))
    for side in SIDES:
        shutil.copyfile(theirs / side, own / side)
    return theirs, own


def params_of(config: dict[str, Any]) -> dict[str, Any]:
    """The params.json for a config.json."""
    vision, text = config["vision_config"], config["text_config"]
    keys = ("hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads")  # fmt: skip
    part = {key: vision[key] for key in keys} | {"rope_theta": 10000.0, "image_token_id": 10, "adapter_bias": True}
    if config["model_type"] == "mistral3":
        part |= {"mm_projector_id": "patch_merge", "spatial_merge_size": 2, "adapter_bias": False,
                 "add_pre_mm_projector_layer_norm": True}  # fmt: skip
    theta = text.get("rope_theta") or text["rope_parameters"]["rope_theta"]
    tied = {"tied_embeddings": config.get("tie_word_embeddings", False)}
    return {**own_params({**text, "rope_theta": theta}), **tied, "vision_encoder": part}


def parts(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata and tensors of a GGUF file."""
    reader = GGUFReader(path)
    said = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("quantkit.")}
    return said, {str(t.name): t.data.tobytes() for t in reader.tensors}


@NAMES
def test_both_layouts_become_the_same_two_files(name: str, tmp_path: Path) -> None:
    made = []
    for folder in both(name, tmp_path):
        out = folder.parent / "out"
        ran = quantkit("convert", folder, "--to", "bf16", "-o", out, "--pre", checkpoints.PRE)
        assert ran.status == 0, ran.stderr
        made.append([parts(out / file) for file in (f"{name}-BF16.gguf", f"mmproj-{name}-BF16.gguf")])
    for theirs, own in zip(*made, strict=True):
        assert own[0] == theirs[0]
        assert own[1] == theirs[1]


REFERENCE_RUN = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion.base, gguf
from conversion.pixtral import PixtralModel
conversion.base._mistral_common_installed = True  # it is wanted for the tokenizer alone
for folder in sys.argv[2:]:
    PixtralModel(Path(folder), gguf.LlamaFileType.GUESSED, Path(folder + ".gguf")).write()
"""
FREE = "clip.rope.freq_base"  # llama.cpp does not read it of an encoder


@pytest.mark.reference
def test_the_encoders_are_those_of_the_reference(tmp_path: Path) -> None:
    names = {name: both(name, tmp_path)[1] for name in ("pixtral", "mistral3")}
    for own in names.values():
        said = json.loads((own / "params.json").read_text())
        tokens = json.loads((own / "tokenizer.json").read_text())["added_tokens"]
        said["vision_encoder"]["image_break_token_id"] = next(t["id"] for t in tokens if t["content"] == "[IMG_BREAK]")
        (own / "params.json").write_text(json.dumps({**said, "norm_eps": 2e-6}))
    command = [sys.executable, "-c", REFERENCE_RUN, str(REFERENCE), *map(str, names.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, own in names.items():
        ran = quantkit("convert", own, "--to", "bf16", "-o", tmp_path / name, "--pre", checkpoints.PRE)
        assert ran.status == 0, ran.stderr
        keys, tensors = parts(tmp_path / name / f"mmproj-{name}-BF16.gguf")
        wanted, expected = parts(Path(f"{own}.gguf"))
        assert tensors == expected
        clip = {key: value for key, value in wanted.items() if key.startswith("clip.") and key != FREE}
        assert {key: value for key, value in keys.items() if key.startswith("clip.")} == clip


DAMAGED: dict[str, tuple[dict[str, Any], type[QuantkitError], str]] = {
    "no width": ({"hidden_size": None}, InputError, "vision_encoder.hidden_size"),
    "a text": ({"num_hidden_layers": "3"}, InputError, "vision_encoder.num_hidden_layers"),
    "an unknown projector": ({"mm_projector_id": "resampler"}, InputError, "vision_encoder.mm_projector_id"),
    "a list for a projector": ({"mm_projector_id": []}, InputError, "vision_encoder.mm_projector_id"),
    "more heads than numbers": ({"num_attention_heads": 64}, InputError, "head_dim"),
    "another key": ({"window": 7}, UnsupportedError, "vision_encoder.window"),
}


@pytest.mark.parametrize("which", DAMAGED)
def test_what_is_not_read_is_named(which: str, tmp_path: Path) -> None:
    changes, kind, key = DAMAGED[which]
    _, own = both("pixtral", tmp_path)
    said = json.loads((own / "params.json").read_text())
    said["vision_encoder"] |= changes
    (own / "params.json").write_text(json.dumps(said))
    with pytest.raises(kind, match=key.rpartition(".")[2]) as caught:
        open_source(str(own))
    assert caught.value.key == key


def test_a_tensor_of_no_layer_is_named(tmp_path: Path) -> None:
    _, own = both("pixtral", tmp_path)
    name = "vision_encoder.transformer.layers.0.attention.wz.weight"
    (own / "consolidated.safetensors").write_bytes(encode({name: Stored("BF16", (1,), b"\0\0")}))
    with pytest.raises(UnsupportedError, match="wz"):
        open_source(str(own))

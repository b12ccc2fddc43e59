"""GGUF files turned back into the checkpoints that they were made of, and which of them cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import family_table
import numpy as np
import pytest
import torch
from commands import quantkit
from gguf import GGUFReader

from quantkit.errors import QuantkitError
from quantkit.families.backwards import llama3_settings
from quantkit.families.hparams import read_hparams
from quantkit.families.placements import rope_freqs
from quantkit.families.steps import move
from quantkit.plan.describe import describe_source
from quantkit.plan.reading import order_rows, read_slab
from quantkit.source import open_source
from quantkit.source.backwards import moved_back
from quantkit.source.restored import restored
from quantkit.tokenizer.probes import probes

# What is written by whoever writes the file, or says how it was written.
OF_THE_FILE = ("general.file_type", "general.quantization_version", "quantkit.", "GGUF.")
SCALED = "falcon-h1"  # its weights come back scaled by what config.json of the original says


def built(name: str, folder: Path) -> Path:
    return checkpoints.build(name, folder) if name in checkpoints.VARIANTS else family_table.build(name, folder)


def converted(name: str, folder: Path, qtype: str = "f32") -> tuple[Path, Path]:
    """A checkpoint, and the GGUF file that is made of it."""
    base = built(name, folder)
    seen = quantkit("convert", base, "--to", qtype, "-o", folder / "gguf", "--no-verify")
    assert seen.status == 0, seen.stderr
    return base, folder / "gguf" / f"{base.name}-{qtype.upper()}.gguf"


def turn_back(base: Path, file: Path) -> None:
    """Turn a file back; the checkpoint gives the file's tensors, bit for bit, and is the one that it was made of."""
    with closing(open_source(str(file))) as made, closing(open_source(str(base))) as source:
        found = restored(made)
        model = describe_source(found)
        assert {target.name for target in model.tensors} == set(made.tensors())
        for target in model.tensors:
            values = order_rows(
                target, read_slab(found, target, 0, target.rows).view(np.uint8).reshape(target.rows, -1)
            )
            ref = made.ref(target.name)
            assert values.tobytes() == ref.read(0, ref.info.rows).tobytes(), target.name
        for name in found.tensors().keys() & source.tensors().keys() if not base.name.startswith(SCALED) else ():
            info = source.tensors()[name]
            ours, theirs = (each.ref(name).read(0, info.rows) for each in (found, source))
            near_one = 1e-7 if name.endswith("A_log") else 0  # of -exp(x), which has seven digits
            np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=near_one, err_msg=name)
            # a row is the same whichever others it is read with
            half = info.rows // 2
            assert np.array_equal(found.ref(name).read(half, info.rows), ours[half:]), name
        # blocks that predict further tokens are called as they were; of experts a stack is written as one of each
        in_file = source.tensors().keys() - describe_source(source).dropped.keys()
        further = {name for name in in_file if name.startswith("mtp.") and ".experts." not in name}
        assert further <= found.tensors().keys()


FEW = (
    "deepseek-v3",
    "llama-yarn",
    "Llama-3x-tied-1B-Instruct-v3.2",
    "qwen3-moe",
    "gemma3-linear",
    "falcon",
    "gpt2",
    "phi3-longrope",
)
MORE = (
    "llama-untied-gqa", "llama-f16", "llama-linear", "llama-biases", "llama-head-dim", "mistral-sliding", "qwen2-tied",
    "qwen2.5-yarn", "qwen3", "Qwen3-Embedding-0.1B", "mixtral-4x1M", "qwen2-moe", "olmoe",
    "minimax-m2", "mamba", "gpt-oss", "pythia", "granite", "olmo2", "gemma2", "gemma3", "phi3", "phi4-mini", "gemma",
    "seed-oss", "starcoder2", "command-r", "cohere2", "smollm3", "arcee", "nemotron", "ernie4.5", "phi-2",
    "glm-4-0414", "hunyuan-dense", "olmo", "jais2", "stablelm", "exaone4", "internlm2", "internlm3", "orion",
    "maincoder", "pangu", "dream", "dots1", "ernie4.5-moe", "mellum", "granite-moe", "granite-moe-shared", "codeshell",
    "refact", "exaone-3.5", "ling-lite", "ling-2.0", "llada-moe", "deepseek-moe", "arctic", "xverse", "baichuan",
    "trinity", "k-exaone", "santacoder", "deepseek-v2", "lfm2", "lfm2-moe", "glm4-moe", "falcon-groups", "bloom",
    "phi4", "phimoe", "hunyuan-moe", "qwen3-next", "qwen3.5", "qwen3.5-moe",
    "deepseek-v3-yarn", "ministral3", "solar-open", "granite-swa", "deepseek-v3.2", "glm-4.7-flash", "youtu",
    "qwen3.5-mtp", "qwen3-next-mtp", "glm4-moe-mtp", "glm-4.7-flash-next", "k-exaone-mtp", "deepseek-v3.2-mtp",
    "gemma4", "gemma4-moe", "gemma4-e", "gemma4-unified",
    "llama4", "llama4-interleaved", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3-vl-moe",
    "granite-4-h", "granite-4-h-dense", "granite-4", "granite-4-moe", "granite-4-without-positions",
    "falcon-h1", "falcon-h1-norm", "nemotron-h", "nemotron-3", "nemotron-3-latent-mtp", "mamba2",
    "jamba", "bamba", "gemma3n", "hy-3", "hy-3-mtp", "kimi-linear", "hunyuan-moe-stretched", "hunyuan-vl",
    "minimax-01", "bitnet", "deepseek-v4", "step-3.5", "step-3.5-mtp", "grok-1", "grok-2", "qrwkv-6", "arwkv-7",
    "arwkv-7-ungated",
)  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_files_are_turned_back(name: str, tmp_path: Path) -> None:
    turn_back(*converted(name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_further_files_are_turned_back(name: str, tmp_path: Path) -> None:
    turn_back(*converted(name, tmp_path))


def test_three_values_are_those_that_rounding_finds_again(tmp_path: Path) -> None:
    """BitNet, a third of whose values are zero: the others move by 2 units in the last place of float32 at most."""
    base = family_table.write(replace(family_table.TABLE["bitnet"], published=None), tmp_path / "bitnet")
    file = tmp_path / "bitnet.gguf"
    assert quantkit("convert", base, "--to", "f32", "-o", file, "--no-verify").status == 0
    with closing(open_source(str(file))) as made:
        found = restored(made)
        for target in describe_source(found).tensors:
            values = read_slab(found, target, 0, target.rows).view(np.uint8).reshape(target.rows, -1)
            ours = order_rows(target, values).view(np.float32)
            there = made.ref(target.name).read(0, target.rows).reshape(ours.shape)
            assert np.array_equal(ours == 0, there == 0), target.name
            np.testing.assert_array_max_ulp(ours, there, maxulp=2)
    seen = quantkit("convert", file, "--to", "hf-f32", "-o", tmp_path / "back")
    assert (seen.status, "autobitlinear" in seen.stderr) == (0, True), seen.stderr


LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0}


@pytest.mark.parametrize(
    ("head", "base", "factor", "high", "original"),
    [
        (128, 5e5, 8.0, 4.0, 8192), (64, 5e5, 32.0, 4.0, 8192), (128, 5e6, 2.0, 32.0, 131072),
        (64, 1e6, 16.0, 8.0, 4096), (32, 1e4, 4.0, 4.0, 256),
    ],
)  # fmt: skip
def test_settings_of_llama3_follow_from_factors(
    head: int, base: float, factor: float, high: float, original: int
) -> None:
    said = {**LLAMA3, "factor": factor, "high_freq_factor": high, "original_max_position_embeddings": original}
    config = {"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": head, "rope_theta": base}
    [made] = rope_freqs(read_hparams({**config, "rope_scaling": said}, {}))
    [factors] = [part.values().reshape(-1).tolist() for part in made.parts]
    assert llama3_settings(factors, base) == said


def test_two_rows_are_no_output_head(tmp_path: Path) -> None:
    """A reranker's file holds the rows of "yes" and "no": with a head of its own the rest of it is lost."""
    _, file = converted("Qwen3-Reranker-0.1B", tmp_path)
    seen = quantkit("convert", file, "--to", "hf-bf16", "-o", tmp_path / "back")
    assert (seen.status, "2 rows alone" in seen.stderr, "hint: " in seen.stderr) == (4, True, True), seen.stderr


# Models of transformers: the others run on code of their own.
OWN_CODE = {name for name, entry in family_table.TABLE.items() if entry.model is None}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*FEW, *MORE) if name not in OWN_CODE and "Re" not in name])
def test_transformers_predicts_what_the_original_predicts(name: str, tmp_path: Path) -> None:
    """Numbers that no key holds, too, are those of the graph: logits are equal to the last bit."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    base, file = converted(name, tmp_path)
    seen = quantkit("convert", file, "--to", "hf-f32", "-o", tmp_path / "back")
    assert seen.status == 0, seen.stderr
    ids = torch.tensor([[5, 77, 130, 9, 301, 44]])
    of_base = AutoModelForImageTextToText if "-vl" in name else AutoModelForCausalLM
    logits = [
        auto.from_pretrained(path, dtype=torch.float32)(ids).logits
        for auto, path in ((of_base, base), (AutoModelForCausalLM, tmp_path / "back"))
    ]
    if "moe" in name or name.startswith(SCALED):  # sums of experts are not always taken in the same order
        torch.testing.assert_close(*logits, rtol=0, atol=1e-6)
    else:
        assert torch.equal(*logits)


def keys_of(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith(OF_THE_FILE)}


@pytest.mark.parametrize("name", ["llama-card", "qwen3", "gemma4"])
def test_there_and_back_and_there_again(name: str, tmp_path: Path) -> None:
    """GGUF -> checkpoint -> GGUF: the same tensors and keys; in between what transformers runs as the original."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, file = converted(name, tmp_path, "bf16")
    back = tmp_path / base.name  # general.name goes by the name of a folder
    base = base.rename(tmp_path / "original")
    seen = quantkit("convert", file, "--to", "hf-bf16", "-o", back)
    assert seen.status == 0, seen.stderr
    assert quantkit("verify", back, "--against", file).status == 0
    manifest = json.loads((back / "model.manifest.json").read_text())
    assert manifest["source"]["kind"] == "gguf" and manifest["source"]["files"][0]["name"] == file.name
    seen = quantkit("convert", back, "--to", "bf16", "-o", tmp_path / "again")
    assert seen.status == 0, seen.stderr
    [again] = (tmp_path / "again").glob("*.gguf")
    tensors = [{t.name: (t.tensor_type, t.data.tobytes()) for t in GGUFReader(path).tensors} for path in (file, again)]
    assert tensors[0] == tensors[1]
    before, after = keys_of(file), keys_of(again)
    said = {key: value for key, value in after.items() if key not in before}
    assert before == {key: after.get(key) for key in before}
    assert said.keys() <= {
        f"tokenizer.ggml.{key}" for key in ("add_bos_token", "add_eos_token", "add_sep_token", "unknown_token_id")
    }
    ids = torch.tensor([[5, 77, 130, 9, 301, 44]])
    logits = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits for path in (base, back)]
    assert torch.equal(*logits)
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (back, base))
    # llama.cpp puts a space before text that begins with one, and after special tokens, too
    texts = [text for text in probes()[::5] if not text.startswith(" ") and "<" not in text]
    wrong = [t for t in texts if ours(t, add_special_tokens=False) != theirs(t, add_special_tokens=False)]
    assert not wrong


def test_quantized_files_are_decoded(tmp_path: Path) -> None:
    """--to hf-f32 is what the file decodes to, exactly; other recipes ask before they round it once more."""
    _, file = converted("arcee", tmp_path, "q4_k_m")
    seen = quantkit("convert", file, "--to", "hf-f32", "-o", tmp_path / "plain")
    assert seen.status == 0, seen.stderr
    assert "decoded" in seen.stderr
    with closing(open_source(str(file))) as made, closing(open_source(str(tmp_path / "plain"))) as plain:
        for target in describe_source(plain).tensors:
            values = order_rows(
                target, read_slab(plain, target, 0, target.rows).view(np.uint8).reshape(target.rows, -1)
            )
            ref = made.ref(target.name)
            assert values.tobytes() == ref.read(0, ref.info.rows).tobytes(), target.name
    asked = quantkit("convert", file, "--to", "w8a16", "-o", tmp_path / "twice")
    assert asked.status == 4 and "--allow-requantize" in asked.stderr
    allowed = quantkit("convert", file, "--to", "w8a16", "--allow-requantize", "-o", tmp_path / "twice")
    assert allowed.status == 0, allowed.stderr


def test_shards_and_an_interrupted_run(tmp_path: Path) -> None:
    _, file = converted("llama-yarn", tmp_path, "bf16")
    out = tmp_path / "out"
    seen = quantkit("convert", file, "--to", "hf-bf16", "--max-shard-size", "200KB", "-o", out)
    assert seen.status == 0, seen.stderr
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    again = quantkit("convert", file, "--to", "hf-bf16", "--max-shard-size", "200KB", "-o", out, "--json")
    assert again.json["artifacts"][0]["built"] is False


def test_one_command_for_one_kind(tmp_path: Path) -> None:
    _, file = converted("qwen3", tmp_path, "bf16")
    seen = quantkit("convert", file, "--to", "hf-bf16,q8_0", "-o", tmp_path / "out")
    assert seen.status == 10 and "a command for each" in seen.stderr


REFUSED = {"mpt": "clamp_kqv", "paddleocr-vl": "only behind an encoder"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_config_json_cannot_say_is_named(name: str, tmp_path: Path) -> None:
    _, file = converted(name, tmp_path)
    seen = quantkit("convert", file, "--to", "hf-bf16", "-o", tmp_path / "out")
    assert seen.status == 4 and REFUSED[name] in seen.stderr
    assert not (tmp_path / "out").exists()


def changed(file: Path, edit: Callable[[bytes], bytes]) -> Path:
    path = file.with_name("changed.gguf")
    path.write_bytes(edit(file.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight", "ffn_u"),
        (b"rope.freq_base", b"rope.freq_bass", "rope.freq_bas"),
        (b"tokenizer.ggml.pre", b"tokenizer.ggml.prf", "pre"),
        (b"block_count\x04\x00\x00\x00\x02\x00", b"block_count\x04\x00\x00\x00\x02\x80", "block_count is 32,770"),
        (b"\x05\x00\x00\x00\x00\x00\x00\x00qwen3", b"\x05\x00\x00\x00\x00\x00\x00\x00qwen9", "qwen9"),
    ],
)
def test_files_of_others_are_refused_by_name(before: bytes, after: bytes, words: str, tmp_path: Path) -> None:
    """A tensor, a key, a pre-tokenizer and an architecture that no family gives, and more blocks than any model has."""
    _, file = converted("qwen3", tmp_path)
    path = changed(file, lambda data: data.replace(before, after, 1))
    with closing(open_source(str(path))) as source, pytest.raises(QuantkitError) as caught:
        restored(source)
    assert caught.value.code == "unsupported" and caught.value.hint
    assert words in caught.value.message


STEPS = [
    (("rows", (2, 5)),), (("every", (1, 3)),), (("fold", (3, 4)),), (("fold", (3, 4)), ("rows", (0, 2)), ("turn", ())),
    (("regroup", (3, 2)),), (("columns", (2, 3)),), (("turn", ()),), (("fold", (2, 6)), ("flat", ())),
    (("split", (2, 3)),), (("regroup", (2, 3)), ("turn", ()), ("columns", (2, 3))),
]  # fmt: skip


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_steps_are_undone(steps: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    """Elements come back to where they were; of the others it is known that they did not."""
    there = np.arange(72).reshape(12, 6)
    moved = move(there, steps)
    back, mask = moved_back(moved, there.shape, steps)
    assert np.array_equal(back[mask], there[mask])
    assert sorted(there[mask]) == sorted(moved.reshape(-1))

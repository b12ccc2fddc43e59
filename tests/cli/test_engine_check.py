"""The engine check: sound files pass whatever their bits, and whatever makes llama.cpp compute something else fails.

Weights are strong (see test_families_end_to_end), rows are long enough for blocks of 256.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import gguf_bytes
import pytest
from checkpoints import VARIANTS, Variant
from commands import quantkit

from quantkit.evaluation.engine_check import check_llama_cpp
from quantkit.evaluation.source_run import SourceRun
from quantkit.events import BlockProgress, Event, StageStarted
from quantkit.families.model import Model
from quantkit.families.roles import Role
from quantkit.pipeline import prepare
from quantkit.plan.describe import describe_source
from quantkit.quality.checks.base import Check, VerifyOptions
from quantkit.quality.headers import differing_numbers
from quantkit.source import open_source

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
SPREAD = 0.4
OPTIONS = VerifyOptions(engine="llama.cpp", threads=2)
TYPES = ("f32", "bf16", "q8_0", "q4_0", "q5_1", "q4_k_m", "q2_k", "iq4_xs", "tq2_0")
QUICK = (("llama-untied-gqa", "q4_0"), ("gemma2", "q2_k"), ("qwen3-moe", "q4_k_m"), ("phi4-mini", "tq2_0"))
FAMILIES = ("llama-untied-gqa", "Llama-3x-tied-1B-Instruct-v3.2", "llama-linear", "qwen2-tied", "qwen3", "qwen3-moe")
FAMILIES += ("mixtral-4x1M", "gemma2", "gemma3", "phi4-mini", "phi3-longrope")

Built = Callable[[str], Path]


def wide(variant: Variant) -> Variant:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4} if "Phi3" in variant.model else {}
    inner = {"moe_intermediate_size": 256} if "moe_intermediate_size" in variant.config else {}
    own = {} if variant.bpe else {"bos_token_id": 1, "eos_token_id": 2}  # of the vocabulary, not Gemma's
    return replace(variant, config={**variant.config, **WIDE, **heads, **inner, **own})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("engine")

    def build(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else checkpoints.build_variant(wide(VARIANTS[name]), folder, SPREAD)

    return build


def pre(folder: Path) -> str | None:
    return checkpoints.PRE if (folder / "tokenizer.json").exists() else None


def convert(folder: Path, out: Path, *recipes: str) -> list[Path]:
    named = ["--pre", pre(folder)] if pre(folder) else []
    outcome = quantkit("convert", folder, "-o", out, "--to", ",".join(recipes), *named, "--no-verify")
    assert outcome.status == 0, outcome.stderr
    return [Path(line) for line in outcome.stdout.split()]


def check(folder: Path, artifact: Path, emit: Callable[[Event], None] = lambda event: None) -> Check:
    source = open_source(str(folder))
    return check_llama_cpp([artifact], SourceRun(source, prepare.describe_source(source, pre(folder))), OPTIONS, emit)


# Every family with three types and every type with three families or more; all 99 pairs were run once.
SOME = [(family, TYPES[(i + step) % len(TYPES)]) for i, family in enumerate(FAMILIES) for step in (0, 4, 7)]
CASES = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in sorted({*SOME, *QUICK})]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_sound_files_pass(name: str, recipe: str, built: Built, tmp_path: Path) -> None:
    found = check(built(name), *convert(built(name), tmp_path, recipe))
    assert found.ok, found.detail
    assert found.data["own_kl"] <= found.data["own_kl_limit"]
    assert found.data["own_kl_limit"] < 1
    assert found.data["kl_mean"] < 1e-4 or recipe != "f32" or name.startswith(("qwen3-moe", "mixtral"))


def test_progress_is_told_from_the_start(built: Built, tmp_path: Path) -> None:
    """What it will cost is said before any of it is spent."""
    heard: list[Event] = []
    folder = built("llama-untied-gqa")
    found = check(folder, *convert(folder, tmp_path, "q8_0"), heard.append)
    assert found.ok
    first, cost = (event for event in heard if isinstance(event, StageStarted))
    assert first is heard[0]
    assert cost is heard[1]
    assert f"{found.data['contexts']:,} tokens of the default text, 4 runs of" in cost.detail
    assert 200 < found.data["contexts"] <= 1024
    steps = [event for event in heard if isinstance(event, BlockProgress)]
    assert [event.index for event in steps] == [1, 2] * 3  # the weights of the file, the source, with rounded inputs
    assert {event.stage for event in steps} == {"verify"}


def test_a_source_runs_once_for_all_its_artifacts(built: Built, tmp_path: Path) -> None:
    folder = built("llama-untied-gqa")
    source = open_source(str(folder))
    run = SourceRun(source, describe_source(source))
    blocks, said = [], []
    for path in convert(folder, tmp_path, "f32", "f16"):
        heard: list[Event] = []
        assert check_llama_cpp([path], run, OPTIONS, heard.append).ok
        blocks.append(sum(isinstance(event, BlockProgress) for event in heard))
        said.append(" ".join(event.detail for event in heard if isinstance(event, StageStarted)))
    assert blocks == [4, 2]  # of two models with two blocks, then of one
    assert "4 runs" in said[0]
    assert "3 runs" in said[1]


def test_a_gguf_source_is_told_apart_and_nothing_judged(built: Built, tmp_path: Path) -> None:
    """Only llama.cpp runs it: the distance is told, of each artifact of it, and it runs once."""
    folder = built("llama-untied-gqa")
    [original, made] = convert(folder, tmp_path, "f32", "q4_0")
    source = open_source(str(original))
    with closing(SourceRun(source, describe_source(source))) as run:
        same, other = (check_llama_cpp([path], run, OPTIONS) for path in (original, made))
    assert same.ok
    assert other.ok
    assert same.data["kl_mean"] < 1e-6
    assert same.data["top_token_agreement"] == 1
    assert other.data["kl_mean"] > 1e-3
    assert "own_kl" not in other.data


def test_a_coarse_file_is_far_from_the_source_and_right(built: Built, tmp_path: Path) -> None:
    """No distance fails a file: it is what the bits cost, told with its error."""
    folder = built("llama-untied-gqa")
    found = check(folder, *convert(folder, tmp_path, "q2_k"))
    assert found.ok
    assert found.data["kl_mean"] > 1
    assert 0 < found.data["kl_standard_error"] < found.data["kl_mean"]


# Mistakes of a writer that believes something wrong: the check shares none of it but the names.
def other_rotation(model: Model) -> Model:
    return replace(model, tensors=tuple(replace(t, row_order=None) for t in model.tensors))


def other_norms(model: Model) -> Model:
    return replace(model, tensors=tuple(replace(t, add=0.0) for t in model.tensors))


def other_names(model: Model) -> Model:
    """Gate and up change places in the first layer: their shapes are the same."""
    names = {"blk.0.ffn_gate.weight": "blk.0.ffn_up.weight", "blk.0.ffn_up.weight": "blk.0.ffn_gate.weight"}
    return replace(model, tensors=tuple(replace(t, name=names.get(t.name, t.name)) for t in model.tensors))


def no_factors(model: Model) -> Model:
    return replace(model, tensors=tuple(t for t in model.tensors if t.role is not Role.ROPE))


def no_key(name: str) -> Callable[[Model], Model]:
    return lambda model: replace(model, metadata=tuple(kv for kv in model.metadata if name not in kv.key))


MISTAKES: dict[str, tuple[str, Callable[[Model], Model]]] = {
    "rotation": ("llama-untied-gqa", other_rotation),
    "norms": ("gemma2", other_norms),
    "names": ("llama-untied-gqa", other_names),
    "factors": ("Llama-3x-tied-1B-Instruct-v3.2", no_factors),
    "linear": ("llama-linear", no_key("rope.scaling")),
    "cap": ("gemma2", no_key("attn_logit_softcapping")),
}


MADE = [(mistake, "q8_0") for mistake in MISTAKES if mistake != "factors"]
# what stretched frequencies do to the first 128 tokens is less than 8 bits cost this model
MADE_SLOWLY = [(mistake, "q4_k_m") for mistake, _ in MADE] + [("factors", "f32")]


@pytest.mark.parametrize(("mistake", "recipe"), MADE + [pytest.param(*c, marks=pytest.mark.slow) for c in MADE_SLOWLY])
def test_mistakes_of_the_writer_fail(
    mistake: str, recipe: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(prepare, "describe_source", lambda source, pre=None: wrong(describe_source(source, pre)))
    found = check(built(name), *convert(built(name), tmp_path, recipe))
    assert found.ok is False, found.data
    assert found.data["own_kl"] > 2 * found.data["own_kl_limit"]


def numbers(path: Path) -> dict[str, tuple[bytes, bytes]]:
    """Every number below the architecture's name: its bytes, and those with the next larger number."""
    found = {}
    fields = gguf.GGUFReader(path).fields
    architecture = fields["general.architecture"].contents()
    for key, field in fields.items():
        if not key.startswith(f"{architecture}.") or field.types[0] not in (
            gguf.GGUFValueType.FLOAT32,
            gguf.GGUFValueType.UINT32,
        ):
            continue
        single = field.types[0] == gguf.GGUFValueType.FLOAT32
        value: Any = field.contents()
        kind, form, other = (gguf_bytes.F32, "<f", value * 1.01) if single else (gguf_bytes.U32, "<I", value + 1)
        stored, changed = (gguf_bytes.entry(key.encode(), kind, struct.pack(form, v)) for v in (value, other))
        found[key] = stored, changed
    return found


@pytest.mark.parametrize("name", ["llama-linear", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_any_other_number_is_noticed(name: str, built: Built, tmp_path: Path) -> None:
    """Also one too small to show in what is computed: an epsilon, a base that is off by a percent."""
    folder = built(name)
    [path] = convert(folder, tmp_path, "q4_0")
    original = path.read_bytes()
    source = open_source(str(folder))
    model = describe_source(source, pre(folder))
    assert differing_numbers(path, model) is None
    for key, (stored, changed) in numbers(path).items():
        assert original.count(stored) == 1
        path.write_bytes(original.replace(stored, changed))
        assert (differing_numbers(path, model) or "").startswith(f"{key} is "), key


def test_tensors_that_changed_places_are_refused(built: Built, tmp_path: Path) -> None:
    """The command as a whole: weights in other places are far from the source's."""
    folder = built("llama-untied-gqa")
    [path] = convert(folder, tmp_path, "q8_0")
    data = bytearray(path.read_bytes())
    places = {t.name: (t.data_offset, t.n_bytes) for t in gguf.GGUFReader(path).tensors}
    (up, count), (gate, _) = places["blk.0.ffn_up.weight"], places["blk.0.ffn_gate.weight"]
    data[up : up + count], data[gate : gate + count] = data[gate : gate + count], data[up : up + count]
    path.write_bytes(bytes(data))
    outcome = quantkit("verify", path, "--against", folder, "--engine", "llama.cpp")
    assert outcome.status == 7
    assert "blk.0.ffn_" in outcome.stderr

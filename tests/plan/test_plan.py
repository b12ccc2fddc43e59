"""Plans: sizes and offsets to the byte, metadata, splits, digests, and what is refused before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import headers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ggml, gguf_files

import quantkit
from quantkit.errors import InputError, RecipeError, UnsupportedError
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Constant, RowOrder, Rows
from quantkit.formats.gguf.file import TensorEntry, encode_header, read_gguf, require_whole_split
from quantkit.formats.gguf.imatrix import Entry, Imatrix
from quantkit.metadata import KeyValue
from quantkit.plan.base import Plan, PlanOptions
from quantkit.plan.gguf import plan_gguf
from quantkit.qtypes import base
from quantkit.recipes.read import gguf_recipe_names, load_recipe
from quantkit.recipes.recipe import Overrides, Recipe, override
from quantkit.source import open_source

SHAPES = {
    "token_embd.weight": (16, 256),
    "output_norm.weight": (256,),
    "output.weight": (16, 256),
    **headers.blocks(2, "attn_v", "ffn_down", "ffn_up"),
}


def importance(plan: Plan) -> dict[str, np.ndarray]:
    return {unit.name: unit.importance for unit in plan.units if unit.importance is not None}


def make(
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    recipe: str | Recipe = "q4_k_m",
    options: PlanOptions | None = None,
    imatrix: Imatrix | None = None,
) -> Plan:
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    checkpoint = headers.checkpoint_of(shapes)
    return plan_gguf(headers.model_of(shapes), checkpoint, recipe, options or PlanOptions(), imatrix=imatrix)


def imatrix_for(shapes: dict[str, tuple[int, ...]], value: float = 2.0) -> Imatrix:
    entries = {}
    for name, shape in shapes.items():
        if len(shape) > 1 and name.startswith("blk."):
            matrices = shape[0] if len(shape) > 2 else 1
            entries[name] = Entry(np.full((matrices, shape[-1]), value, np.float32), np.ones(matrices, np.int64))
    return Imatrix("some.gguf", entries, 3, 512, ("text",), "0" * 64)


def write(made: Plan, folder: Path) -> list[Path]:
    """The planned files with zeros as data."""
    paths = [folder / file.name for file in made.files]
    for path, file in zip(paths, made.files, strict=True):
        path.write_bytes(file.header.ljust(file.nbytes, b"\0"))
    return paths


SIZES = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


@given(st.lists(st.tuples(st.sampled_from(sorted(ggml.TYPE_IDS)), SIZES), min_size=1, max_size=8))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_predicted_bytes_are_what_ggml_reads(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[str, tuple[int, ...]]]
) -> None:
    shapes, keep = {}, []
    for number, (qtype, (rank, experts, rows, blocks)) in enumerate(tensors):
        name = f"blk.{number}.x.weight"
        shapes[name] = (experts + 1, rows + 1, blocks * base.get(qtype).block)[-rank - 1 :]
        if rank:
            keep.append(rf"blk\.{number}\.x={qtype}")
    made = make(shapes, override(load_recipe("bf16"), Overrides(keep=tuple(keep))), imatrix=imatrix_for(shapes))
    [path] = write(made, tmp_path_factory.mktemp("plan"))
    contents = gguf_files.read(path)
    assert contents is not None
    assert contents.tensors == tuple((t.name, ggml.TYPE_IDS[t.dtype], t.offset, t.nbytes) for t in made.tensors)
    rows = {t.name: (int(np.prod(shapes[t.name][:-1])), shapes[t.name][-1]) for t in made.tensors}
    for t in made.tensors:
        assert t.nbytes == rows[t.name][0] * ggml.row_size(ggml.TYPE_IDS[t.dtype], rows[t.name][1])
    padded = [-(-t.nbytes // 32) * 32 for t in made.tensors]
    assert made.nbytes == path.stat().st_size == len(made.files[0].header) + sum(padded)


@pytest.mark.parametrize("recipe", [r for r in gguf_recipe_names() if not load_recipe(r).needs_imatrix])
def test_every_recipe_plans_contiguous_aligned_data(recipe: str, tmp_path: Path) -> None:
    made = make(recipe=recipe)
    end = len(made.files[0].header)
    for planned in made.tensors:
        assert planned.offset == end
        end += -(-planned.nbytes // 32) * 32
    assert end == made.nbytes
    assert gguf_files.read(write(made, tmp_path)[0]) is not None


# bits per weight of Llama-3.1-8B as measured by llama.cpp (tools/quantize/README.md), data without metadata.
MEASURED = {
    "q2_k": 3.1593, "q3_k_s": 3.6429, "q3_k_m": 3.9960, "q3_k_l": 4.2979, "q4_k_s": 4.6672, "q4_k_m": 4.8944,
    "q5_k_s": 5.5704, "q5_k_m": 5.7036, "q6_k": 6.5633, "q8_0": 8.5008, "f16": 16.0005,
    "iq1_s": 2.0042, "iq1_m": 2.1460, "iq2_xxs": 2.3824, "iq2_xs": 2.5882, "iq2_s": 2.7403, "iq2_m": 2.9294,
    "iq3_xxs": 3.2548, "iq3_xs": 3.4977, "iq3_s": 3.6606, "iq3_m": 3.7628,
}  # fmt: skip


@pytest.mark.parametrize("recipe", MEASURED)
def test_bits_per_weight_of_llama_8b_are_the_measured_ones(recipe: str) -> None:
    model, checkpoint = headers.llama(headers.LLAMA_8B)
    imatrix = imatrix_for({t.name: t.shape for t in model.tensors}) if load_recipe(recipe).needs_imatrix else None
    made = plan_gguf(model, checkpoint, load_recipe(recipe), imatrix=imatrix)
    weights = sum(int(np.prod(t.shape)) for t in made.tensors)
    assert weights == 8030261312, "8030261248 weights and 64 rope factors"
    assert round(8 * sum(t.nbytes for t in made.tensors) / weights, 4) == MEASURED[recipe]


def test_tensors_are_in_llama_quantize_s_order() -> None:
    shapes = dict(reversed(list(headers.blocks(11, "attn_q", "attn_k").items()))) | {"token_embd.weight": (8, 256)}
    names = [t.name for t in make(shapes).tensors]
    assert names[:3] == ["token_embd.weight", "blk.0.attn_k.weight", "blk.0.attn_q.weight"]
    assert names[-2:] == ["blk.10.attn_k.weight", "blk.10.attn_q.weight"]


def test_metadata_ends_with_what_was_done() -> None:
    model, checkpoint = headers.model_of(SHAPES), headers.checkpoint_of(SHAPES, repo="org/name", commit="c" * 40)
    recipe = override(load_recipe("q4_k_m"), Overrides(keep=("ffn_up=q8_0",)))
    made = plan_gguf(model, checkpoint, recipe, imatrix=imatrix_for(SHAPES))
    assert made.metadata[: len(model.metadata)] == model.metadata
    assert [(kv.key, kv.kind, kv.value) for kv in made.metadata[len(model.metadata) :]] == [
        ("general.quantization_version", "u32", 2),
        ("general.file_type", "u32", 15),
        ("quantize.imatrix.file", "string", b"some.gguf"),
        ("quantize.imatrix.dataset", "string", b"text"),
        ("quantize.imatrix.entries_count", "u32", 6),
        ("quantize.imatrix.chunks_count", "u32", 3),
        ("quantkit.version", "string", quantkit.__version__),
        ("quantkit.recipe", "string", "q4_k_m --keep ffn_up=q8_0"),
        ("quantkit.source.repo", "string", "org/name"),
        ("quantkit.source.commit", "string", "c" * 40),
    ]


def test_keys_of_an_earlier_run_are_replaced() -> None:
    model = headers.model_of(SHAPES)
    old = (
        KeyValue("general.file_type", "u32", 1),
        KeyValue("split.count", "u16", 3),
        KeyValue("quantkit.source.repo", "string", "someone/else"),
        KeyValue("general.quantization_version", "u32", 1),
        KeyValue("quantkit.recipe", "string", "bf16"),
        KeyValue("quantize.imatrix.file", "string", "kept, as llama-quantize keeps it"),
    )
    made = plan_gguf(replace(model, metadata=model.metadata + old), headers.checkpoint_of(SHAPES), load_recipe("q8_0"))
    found = headers.keys(made.metadata)
    assert sorted(found) == sorted(set(found))
    assert found[:4] == [*headers.keys(model.metadata), "quantize.imatrix.file"]
    assert "split.count" not in found
    assert "quantkit.source.repo" not in found


@pytest.mark.parametrize(("recipe", "number"), [("f32", 0), ("f16", 1), ("bf16", 32)])
def test_float_recipes_keep_vectors_in_f32(recipe: str, number: int) -> None:
    made = make(recipe=recipe)
    assert {t.dtype for t in made.tensors if len(t.shape) > 1} == {recipe}
    assert {t.dtype for t in made.tensors if len(t.shape) == 1} == {"f32"}
    assert KeyValue("general.file_type", "u32", number) in made.metadata


def test_file_names() -> None:
    shapes = {"output.weight": (8, 256)}

    def name(source: str, stem: str | None = None) -> str:
        checkpoint = headers.checkpoint_of(shapes, name=source)
        return plan_gguf(headers.model_of(shapes), checkpoint, load_recipe("q4_k_m"), PlanOptions(stem)).files[0].name

    assert name("Llama-3.1-8B") == "Llama-3.1-8B-Q4_K_M.gguf"
    assert name("org/Llama-3.1-8B") == "Llama-3.1-8B-Q4_K_M.gguf"
    assert name("../..") == "model-Q4_K_M.gguf"
    assert name("a b\x1b[31m") == "a_b__31m-Q4_K_M.gguf"
    assert name("x", stem="mine") == "mine.gguf"


def test_splits_equal_those_of_the_gguf_package(tmp_path: Path) -> None:
    made = make(recipe="f16", options=PlanOptions("mine", split_bytes=10_000))
    paths = write(made, tmp_path)
    files = [read_gguf(path) for path in paths]
    require_whole_split(files)
    writer = gguf.GGUFWriter(None, "llama", split_max_size=10_000)
    for t in made.tensors:
        dtype = np.float32 if t.dtype == "f32" else np.float16
        writer.add_tensor(t.name, np.zeros(t.shape, dtype))
    (tmp_path / "peer").mkdir()
    writer.write_header_to_file(tmp_path / "peer" / "mine.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    peers = sorted((tmp_path / "peer").iterdir())
    assert len(paths) > 2
    assert [path.name for path in paths] == [path.name for path in peers]
    for number, (file, peer) in enumerate(zip(files, map(read_gguf, peers), strict=True)):
        assert [(t.name, t.nbytes) for t in file.tensors] == [(t.name, t.nbytes) for t in peer.tensors]
        assert [kv for kv in file.metadata if kv.key.startswith("split.")] == [
            kv for kv in peer.metadata if kv.key.startswith("split.")
        ]
        assert [t.offset for t in file.tensors] == [t.offset for t in made.tensors if t.file == number]
    assert headers.keys(files[1].metadata) == ["split.no", "split.count", "split.tensors.count"]


def test_one_shard_is_no_split() -> None:
    made = make(options=PlanOptions("mine", split_bytes=10**9))
    assert made.files == make(options=PlanOptions("mine")).files


ODD = {"blk.0.attn_v.weight": (8, 288), "blk.0.ffn_up.weight": (8, 288), "blk.0.ffn_down.weight": (8, 50)}


def test_fallbacks_are_reported_before_work() -> None:
    made = make(ODD)
    assert {u.name: (u.wanted, u.word) for u in made.units} == {
        "blk.0.attn_v.weight": ("q6_k", "q8_0"),
        "blk.0.ffn_up.weight": ("q4_k", "q5_0"),
        "blk.0.ffn_down.weight": ("q4_k", "f16"),
    }
    [(code, message)] = made.warnings
    assert code == "fallback"
    assert message.startswith("3 of 3 tensors take another type: blk.0.attn_v.weight q6_k -> q8_0, ")


def test_fallbacks_can_be_refused() -> None:
    with pytest.raises(RecipeError, match=r"3 of 3 tensors have rows that do not fit .*ffn_up.weight q4_k -> q5_0"):
        make(ODD, override(load_recipe("q4_k_m"), Overrides(on_fallback="error")))
    assert make(SHAPES, override(load_recipe("q4_k_m"), Overrides(on_fallback="error")))


def test_low_bits_are_a_warning() -> None:
    assert [code for code, _ in make(headers.blocks(9, "ffn_up"), "q2_k").warnings] == ["low-bits"]
    assert make(recipe="q4_k_m").warnings == ()


@pytest.mark.parametrize("recipe", [name for name in gguf_recipe_names() if not load_recipe(name).needs_imatrix])
def test_a_large_vocabulary_does_not_hide_low_bits(recipe: str) -> None:
    model, checkpoint = headers.llama(headers.LLAMA_8B)
    low = "low-bits" in dict(plan_gguf(model, checkpoint, load_recipe(recipe)).warnings)
    assert low == (base.get(load_recipe(recipe).weights.type).bits_per_weight < 3)


def quantized_source(folder: Path) -> Path:
    """A GGUF with one q4_k, one q8_0 and one f32 tensor."""
    sizes = [("blk.0.ffn_up.weight", (4, 256), "q4_k"), ("blk.0.ffn_down.weight", (4, 256), "q8_0")]
    entries = [
        TensorEntry(name, shape, ggml.TYPE_IDS[qtype], shape[0] * ggml.row_size(ggml.TYPE_IDS[qtype], shape[1]))
        for name, shape, qtype in [*sizes, ("output_norm.weight", (1, 256), "f32")]
    ]
    header = encode_header([*headers.METADATA, KeyValue("general.file_type", "u32", 15)], entries)
    path = folder / "source.gguf"
    path.write_bytes(header.data.ljust(header.nbytes, b"\0"))
    return path


def test_a_quantized_source_is_copied_or_refused(tmp_path: Path) -> None:
    checkpoint = open_source(str(quantized_source(tmp_path)))
    model = describe_gguf(checkpoint.tensors(), checkpoint.metadata)
    with pytest.raises(UnsupportedError, match=r"quantized already: blk\.0\.ffn_down\.weight q8_0 -> q6_k") as caught:
        plan_gguf(model, checkpoint, load_recipe("q6_k"))
    assert caught.value.tensor == "blk.0.ffn_down.weight"
    assert "--allow-requantize" in (caught.value.hint or "")
    made = plan_gguf(model, checkpoint, load_recipe("q6_k"), PlanOptions(allow_requantize=True))
    assert {u.name: (u.word, u.copy) for u in made.units} == {
        "blk.0.ffn_up.weight": ("q6_k", False),
        "blk.0.ffn_down.weight": ("q6_k", False),
        "output_norm.weight": ("f32", False),
    }
    same = plan_gguf(model, checkpoint, override(load_recipe("q8_0"), Overrides(keep=("ffn_up=q4_k",))))
    assert {t.name: t.copy for t in same.units if t.name.startswith("blk.")} == {
        "blk.0.ffn_up.weight": True,
        "blk.0.ffn_down.weight": True,
    }
    part = replace(headers.tensor_of("blk.0.ffn_up.weight", (2, 256)), parts=(Rows("blk.0.ffn_up.weight", 2, 4),))
    with pytest.raises(UnsupportedError, match="quantized already"):  # only whole tensors are copied
        plan_gguf(replace(model, tensors=(part,)), checkpoint, load_recipe("q4_k_m"))
    checkpoint.close()


def test_importance_goes_to_the_types_that_use_it() -> None:
    shapes = {**headers.blocks(2, "ffn_up", "ffn_down"), "blk.0.ffn_gate_exps.weight": (3, 8, 256)}
    recipe = override(load_recipe("q5_k_s"), Overrides(keep=("ffn_down=q8_0",)))
    made = make(shapes, recipe, imatrix=imatrix_for(shapes))
    assert {name: weights.shape for name, weights in importance(made).items()} == {
        "blk.0.ffn_up.weight": (1, 256),
        "blk.1.ffn_up.weight": (1, 256),
        "blk.0.ffn_gate_exps.weight": (3, 256),
    }
    assert all((weights == 2).all() for weights in importance(made).values())
    assert importance(make(shapes, "bf16", imatrix=imatrix_for(shapes))) == {}


def test_an_imatrix_of_another_model_is_refused_even_where_unused() -> None:
    wrong = imatrix_for(headers.blocks(2, "ffn_up", size=(8, 512)))
    with pytest.raises(InputError, match=r"blk\.0\.ffn_up\.weight has 512 values, expected 256 \(2 of 8 tensors"):
        make(recipe="q8_0", imatrix=wrong)


@pytest.mark.parametrize("name", [name for name in base.names() if base.get(name).needs_importance])
def test_a_type_that_is_useless_without_importance_weights_is_refused(name: str) -> None:
    kept = override(load_recipe("q8_0"), Overrides(keep=(f"ffn_up={name}",)))
    with pytest.raises(RecipeError, match=rf"2 tensors have none: blk\.0\.ffn_up\.weight {name}"):
        make(recipe=kept)
    assert importance(make(recipe=kept, imatrix=imatrix_for(SHAPES)))
    spared = override(load_recipe("q8_0"), Overrides(output_type=name, embedding_type=name))
    assert "output.weight" not in importance(make(recipe=spared))


def test_q2_k_s_needs_importance_weights() -> None:
    with pytest.raises(RecipeError, match=r"q2_k_s needs importance weights, and 6 tensors have none: blk\.0\.attn_v"):
        make(recipe="q2_k_s")
    partial = imatrix_for({name: shape for name, shape in SHAPES.items() if "attn_v" not in name})
    with pytest.raises(RecipeError, match="2 tensors have none"):
        make(recipe="q2_k_s", imatrix=partial)
    assert importance(make(recipe="q2_k_s", imatrix=imatrix_for(SHAPES)))


def test_digest_tells_plans_apart() -> None:
    model, checkpoint = headers.model_of(SHAPES), headers.checkpoint_of(SHAPES)
    recipe = load_recipe("q4_k_m")
    first, *rest = model.tensors
    changed = {
        "same": plan_gguf(model, checkpoint, recipe),
        "recipe": plan_gguf(model, checkpoint, load_recipe("q4_k_s")),
        "option": plan_gguf(model, checkpoint, override(recipe, Overrides(keep=("ffn_up=q4_k",)))),
        "split": plan_gguf(model, checkpoint, recipe, PlanOptions(split_bytes=4000)),
        "imatrix": plan_gguf(model, checkpoint, recipe, imatrix=imatrix_for(SHAPES)),
        "imatrix values": plan_gguf(model, checkpoint, recipe, imatrix=imatrix_for(SHAPES, 3.0)),
        "row order": plan_gguf(
            replace(model, tensors=(replace(first, row_order=RowOrder("swap", (1, 0))), *rest)), checkpoint, recipe
        ),
        "offset of the norm": plan_gguf(
            replace(model, tensors=(*model.tensors[:1], replace(model.tensors[1], add=1.0), *model.tensors[2:])),
            checkpoint,
            recipe,
        ),
        "rows": plan_gguf(
            replace(model, tensors=(replace(first, parts=(Rows("output.weight", 0, 16),)), *rest)), checkpoint, recipe
        ),
        "constant": plan_gguf(
            replace(model, tensors=(*model.tensors[:1], replace(model.tensors[1], parts=(Constant((1.0,) * 256),)),
                                    *model.tensors[2:])), checkpoint, recipe,
        ),
        "metadata": plan_gguf(replace(model, metadata=model.metadata[:2]), checkpoint, recipe),
        "source": plan_gguf(model, headers.checkpoint_of(SHAPES, commit="c" * 40), recipe),
    }  # fmt: skip
    digests = {name: made.digest for name, made in changed.items()}
    assert len(set(digests.values())) == len(digests), digests
    assert plan_gguf(model, checkpoint, override(recipe, Overrides(on_fallback="error"))).digest == digests["same"]
    assert plan_gguf(model, checkpoint, recipe, PlanOptions("other-name")).digest == digests["same"]


def test_source_bytes_count_parts_and_constants() -> None:
    shapes = {"fused": (24, 256), "output.weight": (8, 256)}
    parts = {"q": (0, 16), "k": (16, 24)}
    tensors = [
        replace(
            headers.tensor_of(f"blk.0.attn_{part}.weight", (stop - start, 256)), parts=(Rows("fused", start, stop),)
        )
        for part, (start, stop) in parts.items()
    ]
    factors = replace(headers.tensor_of("rope_freqs.weight", (4,)), parts=(Constant((1.0,) * 4),))
    model = replace(headers.model_of({"output.weight": (8, 256)}), tensors=(*tensors, factors))
    made = plan_gguf(model, headers.checkpoint_of(shapes), load_recipe("q8_0"))
    assert {u.name: u.source_bytes for u in made.units} == {
        "rope_freqs.weight": 16,
        "blk.0.attn_k.weight": 8 * 256 * 2,
        "blk.0.attn_q.weight": 16 * 256 * 2,
    }
    assert made.source_bytes == 24 * 256 * 2 + 16
    assert made.tensors[0].dtype == "f32"


def test_plan_carries_the_model_s_warnings_and_reasons() -> None:
    model = replace(headers.model_of(SHAPES), warnings=(("template", "odd"),))
    made = plan_gguf(model, headers.checkpoint_of(SHAPES), load_recipe("q4_k_m"))
    assert made.warnings == (("template", "odd"),)
    assert {u.name: u.reason for u in made.units}["output.weight"] == "the output needs more bits"
    assert (made.recipe, made.container) == ("q4_k_m", "gguf")

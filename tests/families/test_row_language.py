"""What rows can say, on a made-up family: unlike blocks, tensors by presence, further blocks, keys of every kind.

`map_tensors` and `architecture_metadata` are asked directly; the families that use these words are compared with the
reference elsewhere.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import encoder_table
import family_table
import pytest
from commands import TINY, quantkit
from described import describe_infos
from row_headers import headers

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families import keys, known
from quantkit.families.describe import find_family
from quantkit.families.expressions import evaluate
from quantkit.families.hparams import BY_LAYER, Hparams
from quantkit.families.keys import Key, architecture_metadata
from quantkit.families.known import known_families
from quantkit.families.layers import (
    AFTER_TRUNK,
    KINDS,
    Layers,
    Told,
    before,
    both,
    by_rule,
    either,
    first_said,
    from_,
    further,
    kind,
    lettered,
    listed,
    not_,
    of_period,
)
from quantkit.families.mapping import map_tensors
from quantkit.families.model import Constant, ModelTensor
from quantkit.families.parts import Mapped
from quantkit.families.placements import expert, rope_freqs
from quantkit.families.roles import Role
from quantkit.families.rows import EMBEDDING, PRESENT, Condition, Family, Stack, T, at, optional
from quantkit.families.spellings import Rename
from quantkit.tensors import TensorInfo

LETTERS = {"M": "mamba", "*": "attention"}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 6, "hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "wide": 8, "dense": 1, "num_local_experts": 2,
}  # fmt: skip


def norm(source: str, target: str) -> T:
    return T(source, target, Role.NORM, "hidden_size")


MADE = Family(
    name="made",
    gguf="made",
    hf=("MadeForCausalLM",),
    defaults={"made": DEFAULTS},
    outside=(EMBEDDING,),
    block=(
        *at(kind("mamba"), (T("mixer.in.weight", "ssm_in.weight", Role.OTHER, "2*wide+hidden_size hidden_size"),)),
        *at(
            kind("attention"), (T("mixer.q.weight", "attn_q.weight", Role.ATTN_Q, "q_rows hidden_size", bias=PRESENT),)
        ),
        *optional((T("gate.weight", "attn_gate.weight", Role.OTHER, "wide hidden_size"),)),
        *at(from_("dense"), (T("part.{}.w", "parts.weight", Role.OTHER, "wide hidden_size"),)),
        *at(AFTER_TRUNK, (norm("enorm.weight", "nextn.enorm.weight"),)),
    ),
    keys=(),
    spellings=(Rename(r"^mtp\.layers\.(\d+)\.", "model.layers.{}."), Rename(r"^mtp\.norm\.", "model.layers.{}.enorm.")),
    derive=(lettered("pattern", LETTERS),),
    seen=(further("model.layers.{}.enorm.weight", "predicts"),),
)


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: TensorInfo(name, "BF16", shape, 0) for name, shape in named.items()}


EMBED = {"model__embed_tokens__weight": (6, 4)}
LAYERS = {
    "model__layers__0__mixer__in__weight": (20, 4),
    "model__layers__1__mixer__q__weight": (4, 4),
    "model__layers__2__mixer__in__weight": (20, 4),
}


def mapped(family: Family, config: dict[str, Any], **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    tensors = infos(**shapes)
    found, _ = map_tensors(family, family.numbers(config, tensors), tensors)
    return {tensor.name: tensor.shape for tensor in found}


PLAIN = replace(MADE, block=tuple(t for t in MADE.block if "part" not in t.source))
M = {"pattern": "M*M"}


def test_each_kind_of_layer_has_its_tensors() -> None:
    assert mapped(PLAIN, M, **EMBED, **LAYERS) == {
        "token_embd.weight": (6, 4), "blk.0.ssm_in.weight": (20, 4), "blk.1.attn_q.weight": (4, 4),
        "blk.2.ssm_in.weight": (20, 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("M*", "has 2 entries, expected one for each of 3 layers"),
        ("M*MM", "has 4 entries"),
        ("M?M", r'says "\?" for layer 1, known are M, \*'),
        (None, "is missing"),
        (["M", 3, "M"], 'says "3" for layer 1'),
        ("MMM", 'tensor "model.layers.1.mixer.q.weight" has no place in block 1 \\(of kind "mamba"\\)'),
    ],
)
def test_kinds_that_contradict_the_tensors_are_refused(pattern: object, what: str) -> None:
    with pytest.raises(InputError, match=what):
        mapped(PLAIN, {"pattern": pattern}, **EMBED, **LAYERS)


def test_a_tensor_missing_in_a_layer_of_its_kind_is_named() -> None:
    with pytest.raises(InputError, match=r"model\.layers\.2\.mixer\.in\.weight"):
        mapped(PLAIN, M, **EMBED, **{k: v for k, v in LAYERS.items() if "2" not in k})


def test_tensors_that_may_be_there_are_taken_where_they_are() -> None:
    gate = {f"model__layers__{layer}__gate__weight": (8, 4) for layer in range(3)}
    bias = {"model__layers__1__mixer__q__bias": (4,)}
    found = mapped(PLAIN, M, **EMBED, **LAYERS, **gate, **bias)
    assert {"blk.2.attn_gate.weight", "blk.1.attn_q.bias"} <= set(found)
    with pytest.raises(InputError, match="shape"):
        mapped(PLAIN, M, **EMBED, **LAYERS, **{**gate, "model__layers__2__gate__weight": (9, 4)})
    with pytest.raises(InputError, match=r'no tensor "model\.layers\.0\.gate\.weight"'):
        mapped(PLAIN, M, **EMBED, **LAYERS, model__layers__2__gate__weight=(8, 4))


def parts(layer: int, numbers: range) -> dict[str, tuple[int, ...]]:
    return {f"model__layers__{layer}__part__{n}__w": (8, 4) for n in numbers}


STACKED = replace(MADE, block=tuple(replace(t, place=expert) if "part" in t.source else t for t in MADE.block))


def test_an_expert_missing_in_one_layer_is_named() -> None:
    whole = {**EMBED, **LAYERS, **parts(1, range(2))}
    assert mapped(STACKED, M, **whole, **parts(2, range(2)))["blk.2.parts.weight"] == (2, 8, 4)
    with pytest.raises(InputError, match=r"model\.layers\.2\.part\.1\.w.* 8 of 16 rows"):
        mapped(STACKED, M, **whole, **parts(2, range(1)))
    with pytest.raises(InputError, match=r"number 2, but config\.json has num_local_experts 2"):
        mapped(STACKED, M, **whole, **parts(2, range(3)))
    with pytest.raises(InputError, match="has no place in block 0"):
        mapped(STACKED, M, **whole, **parts(2, range(2)), **parts(0, range(2)))


@pytest.mark.parametrize("said", [{}, {"predicts": 1}])
@pytest.mark.parametrize(
    "name", ["model__layers__3__enorm__weight", "mtp__layers__0__enorm__weight", "mtp__norm__weight"]
)
def test_further_blocks_are_those_that_are_there(said: dict[str, int], name: str) -> None:
    """A block after the last layer, under the numbers of the layers, its own, or none."""
    tensors = infos(**EMBED, **LAYERS, **{name: (4,)})
    hparams = PLAIN.numbers({**M, **said}, tensors)
    assert (hparams.values["blocks"], hparams.values["predicts"]) == (4, 1)
    found, _ = map_tensors(PLAIN, hparams, tensors)
    assert "blk.3.nextn.enorm.weight" in {tensor.name for tensor in found}


def test_further_blocks_that_are_claimed_and_absent_are_not_counted() -> None:
    hparams = PLAIN.numbers({**M, "predicts": 1}, infos(**EMBED, **LAYERS))
    assert (hparams.values["blocks"], hparams.values["predicts"]) == (3, 0)
    assert len(map_tensors(PLAIN, hparams, infos(**EMBED, **LAYERS))[0]) == 4


def test_some_of_the_further_blocks_are_an_error() -> None:
    with pytest.raises(InputError, match=r'has no "model\.layers\.3\.enorm\.weight"'):
        PLAIN.numbers({**M, "predicts": 2}, infos(**EMBED, **LAYERS, model__layers__4__enorm__weight=(4,)))


def test_digits_of_a_name_are_no_numbers() -> None:
    """`layer.0.` and `layer.1.` are different modules of a block, and each stack counts its own blocks."""
    rows = (norm("layer.0.norm.weight", "attn_norm.weight"), norm("layer.1.norm.weight", "ffn_norm.weight"))
    family = replace(
        MADE, outside=(), block=(), derive=(), seen=(), spellings=(),
        stacks=(
            Stack("encoder.block.{}.", "enc.blk.{}.", lambda h: h.count("dense"), rows),
            Stack("decoder.block.{}.", "dec.blk.{}.", lambda h: 2 * h.count("dense"), rows),
        ),
    )  # fmt: skip
    shapes = {f"{s}__block__{b}__layer__{n}__norm__weight": (4,)
              for s, count in (("encoder", 1), ("decoder", 2)) for b in range(count) for n in (0, 1)}  # fmt: skip
    assert set(mapped(family, {}, **shapes)) == {
        f"{s}.blk.{b}.{n}_norm.weight" for s, count in (("enc", 1), ("dec", 2)) for b in range(count)
        for n in ("attn", "ffn")
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="has no place"):
        mapped(family, {}, **shapes, encoder__block__0__layer__2__norm__weight=(4,))
    with pytest.raises(InputError, match="number 1, but"):
        mapped(family, {}, **shapes, encoder__block__1__layer__0__norm__weight=(4,))


NUMBERS = Hparams({**DEFAULTS, KINDS: ["a", "b", "a"], "every": 2, "at": 1, "on": True})


@pytest.mark.parametrize(
    ("where", "blocks"),
    [
        (kind("a"), [0, 2]), (not_(kind("a")), [1, 3]), (before("dense"), [0]), (before("nothing"), []),
        (from_("dense"), [1, 2, 3]), (of_period("every", "at"), [1, 3]), (of_period(3), [0, 3]),
        (both(kind("a"), from_("dense")), [2]), (either(kind("b"), AFTER_TRUNK), [1, 3]),
    ],
)  # fmt: skip
def test_where_rows_stand(where: Layers, blocks: list[int]) -> None:
    assert [block for block in range(4) if where(NUMBERS, block)] == blocks


def test_kinds_by_rule_where_no_list_says_them() -> None:
    derive = first_said("said", listed("said", {"x": "X", "y": "Y"}), by_rule("X", of_period("every"), "Y"))
    assert derive(NUMBERS)[KINDS] == ["X", "Y", "X"]
    assert derive(Hparams({**NUMBERS.values, "said": ["y", "y", "x"]}))[KINDS] == ["Y", "Y", "X"]
    with pytest.raises(InputError, match="num_hidden_layers"):
        derive(Hparams({**NUMBERS.values, "num_hidden_layers": 1 << 30}))


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("2*a", 6), ("a*(b+1)-2", 13), ("b//a", 1), ("b // zero", 0), ("a+b+zero", 7)]
)
def test_expressions(text: str, value: int) -> None:
    assert evaluate(text, {"a": 3, "b": 4, "zero": 0}.__getitem__) == value


def test_an_expression_runs_no_code() -> None:
    with pytest.raises(AssertionError):
        evaluate("__import__('os').getcwd()", {}.__getitem__)


@pytest.mark.parametrize("axis", ["wide-8", "wide*missing", "wide*0"])
def test_a_size_that_is_no_count_is_refused(axis: str) -> None:
    with pytest.raises(InputError, match="expected a positive integer"):
        Hparams(DEFAULTS).size(axis)


SAID = Hparams({
    **DEFAULTS, "yes": True, "no": False, "text": "words", "list": [1, 2], "flags": [True, False], "names": ["a", "b"],
    "half": 0.5, "empty": [], KINDS: ["a", "b", "a"], "blocks": 4,
})  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (Key("k", "bool", "yes"), ("bool", True, False)),
        (Key("k", "bool", "no"), ("bool", False, False)),
        (Key("k", "bool", "no", nonzero=True), None),
        (Key("k", "string", "text"), ("string", "words", False)),
        (Key("k", "i32", "list", array=True), ("i32", (1, 2), True)),
        (Key("k", "f32", "list", array=True), ("f32", (1.0, 2.0), True)),
        (Key("k", "bool", "flags", array=True), ("bool", (True, False), True)),
        (Key("k", "string", "names", array=True), ("string", ("a", "b"), True)),
        (Key("k", "i32", "empty", array=True, nonzero=True), None),
        (Key("k", "u32", "wide*half"), ("u32", 4, False)),
        (Key("k", "u32", "wide+dense"), ("u32", 9, False)),
        (Key("k", "f32", "half*half"), ("f32", 0.25, False)),
        (Key("k", "u32", "wide+missing"), None),
        (Key("k", "u32", "missing", default=0), ("u32", 0, False)),
        (Key("k", "u32", "wide", when="no"), None),
        (Key("k", "u32", "wide", when="text"), ("u32", 8, False)),
        (keys.per_layer("k", "i32", "wide", kind("a")), ("i32", (8, 0, 8, 0), True)),
        (keys.per_layer("k", "bool", "", kind("b")), ("bool", (False, True, False, False), True)),
        (keys.computed("k", "string", lambda h: ("x", "y")), ("string", ("x", "y"), True)),
        (keys.computed("k", "u32", lambda h: None), None),
        (keys.blocks, ("u32", 4, False)),
    ],
)
def test_keys_of_every_kind(key: keys.KeyRow, value: tuple[object, ...] | None) -> None:
    found = architecture_metadata("m", [key], SAID)
    assert [(kv.kind, kv.value, kv.array) for kv in found] == ([] if value is None else [value])


@pytest.mark.parametrize(
    "key",
    [
        Key("k", "bool", "text"), Key("k", "string", "wide"), Key("k", "i32", "wide", array=True),
        Key("k", "bool", "list", array=True), Key("k", "i32", "names", array=True), Key("k", "u32", "half"),
        Key("k", "i32", "empty", array=True),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(key: Key) -> None:
    bad = Hparams({**SAID.values, "list": [2, 3]})
    with pytest.raises(InputError, match=f"config.json: {key.value} is"):
        architecture_metadata("m", [key], bad)


def test_other_spellings_of_numbers() -> None:
    family = replace(PLAIN, aliases={"n_layer": "num_hidden_layers"}, derive=())
    assert family.hparams({"n_layer": 5}).count("num_hidden_layers") == 5
    assert family.hparams({"num_hidden_layers": 4, "n_layer": 5}).count("num_hidden_layers") == 4
    assert family.hparams({"llm_config": {"wide": 9}, "wide": 7}).count("wide") == 9


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"experts": 0}, "made-dense"),
        ({"experts": 4}, "made-mixture"),
        ({"experts": 9}, "2 families"),
        ({}, "no famil"),
    ],
)
def test_the_row_is_the_one_whose_condition_holds(
    config: dict[str, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = Condition("experts is 0", lambda said: said.get("experts") == 0)
    mixture = Condition("experts is above 3", lambda said: said.get("experts", 0) > 3)
    many = Condition("experts is above 8", lambda said: said.get("experts", 0) > 8)
    rows = tuple(
        replace(PLAIN, name=f"made-{name}", when=when)
        for name, when in (("dense", dense), ("mixture", mixture), ("many", many))
    )
    monkeypatch.setattr("quantkit.families.describe.families_with", lambda architecture: rows)
    said = {"architectures": ["MadeForCausalLM"], **config}
    if expected.startswith("made"):
        assert find_family(said).family.name == expected
    else:
        with pytest.raises(UnsupportedError, match=expected) as raised:
            find_family(said)
        named = ["made-mixture: experts is above 3", "made-many"] if config else ["made-dense", "made-many"]
        assert all(name in str(raised.value) for name in named)


UNSERVED = [family for family in known_families() if family.unserved]


@pytest.mark.parametrize("family", UNSERVED, ids=lambda family: family.name)
def test_a_family_for_gguf_alone_is_refused_elsewhere(family: Family) -> None:
    from quantkit.calibration.walk.settings import model_settings
    from quantkit.families.linears import outline

    config = {"architectures": [family.hf[0]], "model_type": next(iter(family.defaults))}
    if family.when is not None:
        pytest.skip("chosen by more than its name")
    for ask in (lambda: outline({}, config), lambda: model_settings(config, {})):
        with pytest.raises(UnsupportedError, match=f'family "{family.name}" is read for GGUF files'):
            ask()


# One family for each reason -> a checkpoint of its own.
UNWALKED = {
    "gemma4_assistant": "gemma-4-assistant",
    "nemotron_puzzle": "nemotron-puzzle",
}  # fmt: skip


def test_reasons_not_to_run_text_have_an_example_each() -> None:
    families = [family for family in known_families() if family.unwalked]
    assert not any(family.unserved for family in families)
    assert {family.unwalked for family in families} == {f.unwalked for f in families if f.name in UNWALKED}


@pytest.mark.parametrize(("family", "name"), UNWALKED.items(), ids=UNWALKED)
def test_a_family_that_no_text_is_run_through_is_rounded_without(family: str, name: str, tmp_path: Path) -> None:
    table = encoder_table if name in encoder_table.ENCODERS else family_table
    folder = table.build(name, tmp_path)
    text = TINY.parent / "calibration.jsonl"
    blocks = () if name == "nemotron-puzzle" else ("fp8-native",)  # whose 1,096 outputs are no blocks of 128
    for recipe in ("nf4", "int8", "w8a8", "fp8", *blocks, "q4_k_m"):
        assert quantkit("plan", folder, "--to", recipe).status == 0
    for command in (
        ("plan", folder, "--to", "gptq-w4g32"), ("plan", folder, "--to", "w4a16-awq"),
        ("plan", folder, "--to", "q4_k_m", "--calib", text),
        ("calibrate", folder, "--data", text, "-o", tmp_path / "x.gguf"),
    ):  # fmt: skip
        ran = quantkit(*command)
        assert ran.status == 4, ran.stderr
        why = known.family_named(family).unwalked
        assert f'family "{family}" is rounded without calibration, and not run here: {why}' in ran.stderr
        assert "use --to nf4, int8, w8a8 or fp8;" in ran.stderr


@pytest.mark.parametrize(("family", "instead"), [("codeshell", "q4_k_m"), ("bitnet", "tq2_0")])
def test_the_refusal_is_said_by_the_commands(family: str, instead: str, tmp_path: Path) -> None:
    folder = family_table.build(family, tmp_path)
    text = TINY.parent / "calibration.jsonl"
    for command in (
        ("plan", folder, "--to", "w4a16"), ("plan", folder, "--to", "q4_0", "--calib", text),
        ("calibrate", folder, "--data", text, "-o", folder / "x.gguf"),
    ):  # fmt: skip
        ran = quantkit(*command)
        assert ran.status == 4, ran.stderr
        assert f'family "{family}" is read for GGUF files' in ran.stderr
        assert f"--to {instead}` works" in ran.stderr


@pytest.mark.parametrize("family", known_families(), ids=lambda family: family.name)
def test_no_config_json_makes_a_family_fail_otherwise_than_by_an_error(family: Family) -> None:
    """Numbers that are missing, huge, lists, texts: an error that names the key, or a description."""
    base = dict(next(iter(family.defaults.values())))
    for key in sorted({*base, *family.aliases, "layer_types", "hybrid_override_pattern", "layers_block_type"}):
        for value in (None, 0, -1, 1 << 40, 2.5, "words", [], [1, "x"], {}, True):
            with suppress(QuantkitError):
                describe_infos({}, {"architectures": [family.hf[0]], key: value})


def one(name: str, *values: float) -> TensorInfo:
    return TensorInfo(name, "F32", (len(values),), 4 * len(values), values=values)


def test_numbers_in_tensors_become_a_list_of_one_for_each_layer() -> None:
    told, numbers = Told("model.layers.{}.act.alpha", "alpha"), Hparams({"num_hidden_layers": 2})
    names = [f"model.layers.{layer}.act.alpha" for layer in range(2)]
    held = {name: one(name, 0.5 + layer) for layer, name in enumerate(names)}
    assert told(numbers, held) == {"alpha": [0.5, 1.5]}
    assert told(numbers, {name: replace(info, values=None) for name, info in held.items()}) == {}  # headers alone
    with pytest.raises(InputError, match=r"no tensor \"model\.layers\.1\.act\.alpha\""):
        told(numbers, {names[0]: held[names[0]]})
    for wrong in (one(names[1], 1.0, 2.0), one(names[1], float("nan")), TensorInfo(names[1], "F32", (2,), 8)):
        with pytest.raises(InputError, match="not one finite number"):
            told(numbers, {**held, names[1]: wrong})


def test_a_baichuan_2_has_rows_of_length_1_in_its_head() -> None:
    """Its code normalizes them whenever it runs, and llama.cpp does not."""
    for vocabulary, maps in ((64000, set()), (125696, {"unit"})):
        config = {"architectures": ["BaichuanForCausalLM"], "vocab_size": vocabulary, "num_hidden_layers": 1,
                  "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
        family = find_family(config).family
        hparams = family.hparams(config)
        infos = {info.name: info for info in headers(family, hparams)}
        [head] = [t for t in map_tensors(family, hparams, infos)[0] if t.name == "output.weight"]
        assert {part.what for part in head.parts if isinstance(part, Mapped)} == maps


def test_layers_may_differ_in_their_numbers() -> None:
    """Shapes, and where rows go, are those of the layer; what no layer says is the model's."""
    hparams = Hparams({"rows": 4, "wide": 8, BY_LAYER: [{"rows": 6}, {}]})
    assert [hparams.of_layer(layer).size("rows*wide") for layer in (0, 1, 2, None)] == [48, 32, 32, 32]


def evaluate_constant(tensor: ModelTensor) -> tuple[float, ...]:
    [part] = tensor.parts
    assert isinstance(part, Constant)
    return part.data


def test_the_half_that_step_rotates_has_the_factors_of_a_head_of_that_size() -> None:
    family = known.family_named("step35")
    numbers = {
        "hidden_size": 64, "num_attention_heads": 2, "num_attention_groups": 1, "head_dim": 32, "num_hidden_layers": 1,
        "rope_theta": [5e5, 1e4], "rope_scaling": {"rope_type": "llama3", "factor": 4.0,
        "original_max_position_embeddings": 512, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }  # fmt: skip
    assert family.extra is not None
    hparams = family.hparams(numbers)
    [whole] = family.extra(hparams)
    [half] = rope_freqs(Hparams({**hparams.values, "head": 16}))
    found, expected = (evaluate_constant(tensor) for tensor in (whole, half))
    assert found == (*expected, *[1.0] * 8)
    assert len(set(expected)) > 2

"""Recipe files: the shipped ones, what a file may say, and how mistakes are reported."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import mutants
from reference import REFERENCE

from quantkit.errors import RecipeError, UsageError
from quantkit.families.model import Model, ModelTensor, Rows, Shape
from quantkit.families.roles import Role, role_of
from quantkit.plan.mixture import choose_types
from quantkit.qtypes import base
from quantkit.recipes.read import gguf_recipe_names, load_recipe, recipe_names, recipe_text, recipes_folder
from quantkit.recipes.recipe import GGUFMixture, Overrides, Recipe, override, parse_keep
from quantkit.recipes.rules import Keep, Layers
from quantkit.recipes.shipped import MAX_RECIPE_BYTES

PRESETS = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
]  # fmt: skip


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def model(*names: str) -> Model:
    tensors = [ModelTensor(n, role_of(n), (2, 256), (Rows(f"hf.{n}", 0, 2),), 0) for n in names]
    return Model("test", "Test", "llama", Shape(1, 256, 8, 8, 32), tuple(tensors), (), None, {})


def mixture(name: str) -> GGUFMixture:
    found = load_recipe(name).mixture
    assert found is not None
    return found


def types(recipe: Recipe, *names: str) -> dict[str, str]:
    return {
        n: c.qtype for n, c in choose_types(model(*names), recipe, dict.fromkeys(names, "f32"), imatrix=False).items()
    }


def test_every_preset_ships() -> None:
    assert set(gguf_recipe_names()) == {preset.lower() for preset in PRESETS}


@pytest.mark.parametrize("name", gguf_recipe_names())
def test_shipped_recipe_is_complete(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.name, recipe.title) == (name, name.upper())
    assert recipe.summary
    assert all(rule.optional and rule.why for rule in recipe.rules)
    assert recipe_text(name).startswith("# "), "a recipe file begins with what it is for"


@pytest.mark.reference
@pytest.mark.parametrize("name", gguf_recipe_names())
def test_file_type_is_llama_cpp_s(name: str) -> None:
    header = (REFERENCE / "include" / "llama.h").read_text()
    prefix = "ALL" if name == "f32" else "MOSTLY"
    found = re.search(rf"LLAMA_FTYPE_{prefix}_{name.upper()} += (\d+),", header)
    assert found is not None
    assert mixture(name).file_type == int(found[1])


@pytest.mark.parametrize(
    ("said", "meant"), [("Q4_K_M", "q4_k_m"), ("q4_k", "q4_k_m"), ("Q3_K", "q3_k_m"), ("q5_k", "q5_k_m")]
)
def test_names_are_case_insensitive_and_have_aliases(said: str, meant: str) -> None:
    assert load_recipe(said) == load_recipe(meant)


def test_aliases_do_not_clash() -> None:
    aliases = [alias for name in recipe_names() for alias in load_recipe(name).aliases]
    assert len(set(aliases) | set(recipe_names())) == len(aliases) + len(recipe_names())


def test_recipes_lie_in_the_source_tree() -> None:
    assert recipes_folder().name == "recipes"
    assert (recipes_folder() / "q4_k_m.toml").is_file()


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match='unknown recipe "q4_km"; did you mean "q4_k_m"') as caught:
        load_recipe("q4_km")
    assert "q4_k_m, q4_k, q5_k_m" in (caught.value.hint or "")


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    text = """
        schema = 1
        title = "Mine-1"
        summary = "for me"
        on_fallback = "error"
        [default]
        qtype = "q4_k"
        [[rule]]
        roles = ["attn_v", "ffn_down"]
        layers = "first:1"
        qtype = "q6_k"
        [[rule]]
        names = ["blk.*.attn_v.*"]
        was = ["q6_k"]
        qtype = "q8_0"
        [[rule]]
        when = { imatrix = true }
        roles = ["output"]
        qtype = "f16"
    """
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.name, recipe.title, recipe.summary, recipe.on_fallback) == ("mine", "Mine-1", "for me", "error")
    assert recipe.mixture == mixture("q4_k_m"), "the preset of the default type"
    assert types(recipe, "blk.0.attn_v.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up.weight") == {
        "blk.0.attn_v.weight": "q8_0",
        "blk.0.ffn_down.weight": "q6_k",
        "blk.0.ffn_up.weight": "q4_k",
    }


def test_the_documented_recipe(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    recipe = load_recipe(write(tmp_path, text.partition("```toml\n")[2].partition("```")[0]))
    assert (recipe.title, recipe.on_fallback) == ("Q4_K_MINE", "error")
    assert types(recipe, "output.weight", "blk.0.attn_v.weight") == {
        "output.weight": "q6_k",
        "blk.0.attn_v.weight": "q8_0",
    }
    named = {
        word for line in text.splitlines() if line.startswith("| `roles`") for word in re.findall(r"`(\w+)`", line)
    }
    quantized = set(Role) - {Role.NORM, Role.BIAS, Role.ROPE, Role.ROUTER, Role.POSITION}
    assert named - {"roles"} == quantized


def test_later_rules_win(tmp_path: Path) -> None:
    rules = "".join(f'[[rule]]\nroles = ["attn_v"]\nqtype = "{qtype}"\n' for qtype in ("q8_0", "bf16", "q5_0"))
    recipe = load_recipe(write(tmp_path, f'schema = 1\n[default]\nqtype = "q4_0"\n{rules}'))
    assert types(recipe, "blk.0.attn_v.weight") == {"blk.0.attn_v.weight": "q5_0"}


def test_shared_rules_are_used_by_name_and_in_place(tmp_path: Path) -> None:
    text = 'schema = 1\nfile_type = 15\n[default]\nqtype = "q4_k"\n'
    after = load_recipe(write(tmp_path, text + '[[rule]]\nuse = "output"\n[[rule]]\nroles=["output"]\nqtype="q5_k"'))
    before = load_recipe(write(tmp_path, text + '[[rule]]\nroles=["output"]\nqtype="q5_k"\n[[rule]]\nuse = "output"'))
    assert types(after, "output.weight") == {"output.weight": "q5_k"}
    assert types(before, "output.weight") == {"output.weight": "q6_k"}


def test_a_rule_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    text = 'schema = 1\n{}\n[default]\nqtype = "q4_k"\n[[rule]]\nnames = ["lm_head*"]\nqtype = "q8_0"\n'
    with pytest.raises(RecipeError, match=r"mine\.toml: rule\[0\]: matches no tensor") as caught:
        types(load_recipe(write(tmp_path, text.format(""))), "output.weight")
    assert "strict = false" in (caught.value.hint or "")
    assert types(load_recipe(write(tmp_path, text.format("strict = false"))), "output.weight")


def test_a_rule_whose_condition_is_false_may_match_nothing(tmp_path: Path) -> None:
    text = 'schema = 1\n[default]\nqtype = "q4_k"\n[[rule]]\nwhen = { experts = 8 }\nnames = ["x"]\nqtype = "q8_0"\n'
    assert types(load_recipe(write(tmp_path, text)), "output.weight") == {"output.weight": "q4_k"}


HEAD = 'schema = 1\n[default]\nqtype = "q4_k"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.toml: schema: is missing"),
        ("schema = 2", r"schema: is 2, this version reads 1"),
        ('schema = "1"', r"schema: expected an integer, found '1'"),
        ("schema = 1", r"default\.qtype: is missing"),
        ("schema = 1\ndefault = 3", r"default: expected a table, found 3"),
        ('schema = 1\n[default]\nqtype = "q4k"', r'default\.qtype: unknown "q4k"; did you mean "q4_k"\?'),
        ('schema = 1\n[default]\nqtyp = "q4_k"', r'default\.qtyp: unknown key; did you mean "qtype"\?'),
        ('schema = 1\nsumary = ""\n[default]\nqtype = "q4_k"', r'sumary: unknown key; did you mean "summary"\?'),
        ('schema = 1\ntitle = "../x"\n[default]\nqtype = "q4_k"', r'title: "\.\./x" cannot be part of a file name'),
        ("schema = 1\nfile_type = -1\n[default]\nqtype = 'q4_k'", r"file_type: -1 is not an unsigned"),
        ("schema = 1\nfile_type = true\n[default]\nqtype = 'q4_k'", r"file_type: expected an integer, found True"),
        ("schema = 1\n[default]\nqtype = 'mxfp4'", r"file_type: is missing, and no shipped recipe is named mxfp4"),
        ("schema = 1\non_fallback = 'eror'\n[default]\nqtype = 'q4_k'", r'on_fallback: .* did you mean "error"'),
        (HEAD + "rule = 1", r"default\.rule: unknown key"),
        ("schema = 1\nrule = [1]\n[default]\nqtype = 'q4_k'", r"rule\[0\]: expected a table"),
        (HEAD + '[[rule]]\nqtype = "q6k"', r'rule\[0\]\.qtype: unknown "q6k"; did you mean "q6_k"\?'),
        (HEAD + '[[rule]]\nroles = ["attn_v"]', r"rule\[0\]\.qtype: is missing"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nroles = ["atn_v"]', r'rule\[0\]\.roles: unknown "atn_v"; did you mean'),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nroles = [3]', r"rule\[0\]\.roles: expected an array of strings"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nroles = "attn_v"', r"rule\[0\]\.roles: expected an array, found"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nlayers = "more_bit"', r'rule\[0\]\.layers: .* did you mean "more_bits"'),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nlayers = "first:-1"', r'rule\[0\]\.layers: unknown "first:-1"'),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nlayer = "more_bits"', r"rule\[0\]\.layer: unknown key; did you mean"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nwhen = { gqa = 4 }', r"rule\[0\]\.when\.gqa: unknown key; did you mean"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nwhen = { imatrix = 1 }', r"rule\[0\]\.when\.imatrix: expected true or"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\nwas = ["q9"]', r'rule\[0\]\.was: unknown "q9"'),
        (HEAD + '[[rule]]\nuse = "outputs"', r'rule\[0\]\.use: unknown "outputs"; did you mean "output"\?'),
        (HEAD + '[[rule]]\nuse = "../../etc/passwd"', r"rule\[0\]\.use: unknown"),
        (HEAD + '[[rule]]\nuse = "output"\nqtype = "q6_k"', r"rule\[0\]\.qtype: unknown key"),
        (HEAD + f'[[rule]]\nqtype = "q6_k"\nnames = ["{"a" * 201}"]', r"rule\[0\]\.names: more than"),
        (HEAD + '[[rule]]\nqtype = "q6_k"\n' * 1001, r"rule: 1001 entries, more than 512"),
        ("schema = ", r"not valid TOML"),
        ("schema = 1\nx = " + "9" * 5000, r"a number or key of 5,000 characters, at line 2"),
        ("x = " + "[" * 20000, r"keys or brackets nested too deeply, at line 1"),
        ('schema = 1\n"a\\u001b[31m" = 1\n[default]\nqtype = "q4_k"', r"mine\.toml: a\\x1b\[31m: unknown key"),
        ("# " + "x" * MAX_RECIPE_BYTES, r"at most [\d,]+ are read"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else None,
)
def test_mistakes_name_the_key_and_suggest(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert str(tmp_path / "mine.toml") in str(caught.value)


def test_the_documented_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "x.toml").write_text(HEAD + '[[rule]]\nqtype = "q6k"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipes/x.toml")
    assert caught.value.message == 'recipes/x.toml: rule[0].qtype: unknown "q6k"; did you mean "q6_k"?'
    assert (caught.value.path, caught.value.key) == ("recipes/x.toml", "rule[0].qtype")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.toml"
    os.mkfifo(fifo)
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    for name in ("absent.toml", "pipe.toml", "folder.toml", "binary.toml"):
        with pytest.raises(RecipeError, match=re.escape(name)):
            load_recipe(str(tmp_path / name))


def test_damaged_recipes_raise_nothing_but_recipe_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for raw in mutants(recipe_text("q4_k_m").encode(), 400, seed=5):
        path.write_bytes(raw)
        try:
            load_recipe(str(path))
        except RecipeError as error:
            assert str(path) in str(error)


@given(st.text(max_size=40))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_any_text_is_a_keep_or_a_usage_error(text: str) -> None:
    try:
        keep = parse_keep(text)
    except UsageError:
        return
    assert keep.qtype in base.names()
    keep.matches("blk.0.attn_v.weight")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_v", "is not PATTERN=TYPE"),
        ("=q8_0", "is not PATTERN=TYPE"),
        ("attn_v=", "is not PATTERN=TYPE"),
        ("attn_v=q80", 'unknown type "q80"; did you mean "q8_0"'),
        ("attn_(v=q8_0", "missing \\)"),
    ],
)
def test_malformed_keep(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_keep(text)


def test_keep_takes_the_last_equals_sign_and_any_case() -> None:
    assert parse_keep("ffn_(a=)?down=Q8_0") == Keep("ffn_(a=)?down", "q8_0")


def test_keep_that_matches_nothing_says_what_the_tensor_is_called() -> None:
    recipe = override(load_recipe("q4_k_m"), Overrides(keep=("hf.output=q8_0",)))
    with pytest.raises(RecipeError, match=r"--keep hf\.output=q8_0 matches no tensor") as caught:
        types(recipe, "output.weight")
    assert caught.value.hint == "hf.output.weight is called output.weight in the target"


def test_keep_that_matches_only_norms_is_an_error() -> None:
    with pytest.raises(RecipeError, match="matches no tensor that can be quantized"):
        types(
            override(load_recipe("q4_k_m"), Overrides(keep=("norm=q8_0",))), "blk.0.attn_norm.weight", "output.weight"
        )


def test_unknown_type_options() -> None:
    with pytest.raises(UsageError, match='--output-type: unknown type "q6k"; did you mean "q6_k"'):
        override(load_recipe("q4_k_m"), Overrides(output_type="q6k"))
    with pytest.raises(UsageError, match="--embedding-type: unknown type"):
        override(load_recipe("q4_k_m"), Overrides(embedding_type="int3"))


def test_label_repeats_the_options() -> None:
    plain = load_recipe("Q4_K")
    assert plain.label == "q4_k_m"
    assert override(plain, Overrides(on_fallback="error")).label == "q4_k_m", "it does not change what is written"
    changed = override(plain, Overrides(keep=("a=q8_0", "b=f16"), output_type="Q6_K", embedding_type="q8_0", pure=True))
    assert changed.label == "q4_k_m --keep a=q8_0 --keep b=f16 --output-type q6_k --embedding-type q8_0 --pure"


@pytest.mark.parametrize(
    ("name", "text", "told"), [("q4_k_m", True, True), ("q4_k_m", False, False), ("bf16", True, False)]
)
def test_switches_of_feedback_name_what_is_made_with_it(name: str, text: bool, told: bool) -> None:
    """Of several recipes those that have no use for them are what they are without."""
    run = Overrides(head=False, embedding=False, columns=False, norms=True, text=text)
    changed = override(load_recipe(name), run).overrides
    assert changed.keys() - {"method"} == (
        {"no-feedback-head", "no-feedback-embedding", "no-even-columns", "refit-norms"} if told else set()
    )


def test_override_without_options_changes_nothing() -> None:
    assert override(load_recipe("q4_k_m"), Overrides()) == load_recipe("q4_k_m")


@pytest.mark.parametrize("count", [1, 4, 8, 22, 32, 80])
def test_more_bits_is_the_outer_quarter_and_a_third_between(count: int) -> None:
    chosen = [index for index in range(count) if Layers("more_bits").contains(index, count)]
    inner = range(count // 8, 7 * count // 8)
    assert set(chosen) - set(inner) == set(range(count)) - set(inner)
    assert [i for i in chosen if i in inner] == list(inner)[2::3]


def test_layers_do_not_contain_what_is_outside_blocks() -> None:
    assert not Layers("first:5").contains(None, 8)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("output.weight", Role.OUTPUT),
        ("blk.0.attn_output.weight", Role.ATTN_OUTPUT),
        ("token_embd.weight", Role.TOKEN_EMBD),
        ("token_embd_norm.weight", Role.NORM),
        ("blk.3.attn_qkv.weight", Role.ATTN_QKV),
        ("blk.3.attn_v.bias", Role.BIAS),
        ("blk.3.attn_v_b.weight", Role.OTHER),
        ("blk.3.ffn_gate_inp.weight", Role.ROUTER),
        ("blk.3.ffn_gate_exps.weight", Role.FFN_GATE),
        ("blk.3.ffn_gate_up_exps.weight", Role.FFN_GATE_UP),
        ("blk.3.ffn_down_shexp.weight", Role.FFN_DOWN),
        ("rope_freqs.weight", Role.ROPE),
    ],
)
def test_role_of(name: str, role: Role) -> None:
    assert role_of(name) is role

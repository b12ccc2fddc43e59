"""Targets of compressed-tensors: which modules they mean, and that no pattern takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_speed import within

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.pattern_sets import Targets
from quantkit.formats.containers.patterns import matches

NAMES = [
    "model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.o_proj", "model.layers.3.mlp.gate_proj",
    "model.layers.3.mlp.experts.17.down_proj", "model.layers.7.block_sparse_moe.experts.3.w2", "lm_head",
    "model.layers.3.mlp.gate", "model.language_model.layers.2.mlp.up_proj", "", "Linear",
]  # fmt: skip
PATTERNS = [
    ".*", ".*self_attn.*(q|k|v)_proj$", r"model\.layers\.(0|1|3)\..*", r".*block_sparse_moe\.experts.*w[123]$",
    r".*mlp\.gate$", r"^model\.layers\.\d+\.mlp\.(gate|up|down)_proj", ".*lm_head", "lm_head", r".*\.[0-9]{1,2}\.mlp",
    r"^(?!.*mlp).*proj$", r"(?=.*experts)model.*", r"(?:model\.)?layers|lm", r"[^m].*", r".*[a-c_-]{4}", "Linear",
    r"model.layers.[1-3]+?.*", r"\w+\.\w+\.\d{1}\.", r"(.*\.)*mlp", "", "a|", "(|m)odel", r"\S*\D$",
    "[]m]odel", "x{0}m",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_re_says(pattern):
    assert [name for name in NAMES if matches(f"re:{pattern}", name)] == [
        name for name in NAMES if re.match(pattern, name)
    ]


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\.", "^", "$", r"\w"])
REPEATED = st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{0,}"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda found: f"({'|'.join(found)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{0,}"])).map(
            lambda p: f"({p[0]}){p[1]}"
        ),
        inner.map(lambda found: f"(?!{found})"),
    ),
    max_leaves=6,
)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(EXPRESSIONS, st.text("ab.", max_size=7))
def test_expressions_mean_what_re_says(pattern, name):
    assert matches(f"re:{pattern}", name) == bool(re.match(pattern, name)), pattern


@pytest.mark.parametrize(
    "pattern",
    ["(a", "a)", "[a", "*a", "a**", "a{1000}", "a{2,1}", "a{x}", r"\1", "a\\", "(?P<n>a)", "(?<=a)b", "(?i)a",
     "(" * 50 + ")" * 50, "a" * 2000],
)  # fmt: skip
def test_other_patterns_are_refused(pattern):
    with pytest.raises(UnsupportedError, match="target") as caught:
        matches(f"re:{pattern}", "model")
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "pattern",
    ["(a*)*b", "(a|a)*b", "(.*a){20}b", "(((a?){100}){100}){100}b", ".*.*.*.*.*.*b", "((?!(.*)*c).)*b",
     "((((^{100}){100}){100}){100}){100}b"],
)  # fmt: skip
def test_no_pattern_takes_long(pattern):
    with within(2):
        try:
            assert not matches(f"re:{pattern}", "a" * 500)
        except UnsupportedError as error:
            assert "too long" in error.message


def test_the_name_decides_before_a_pattern_and_a_pattern_before_the_class():
    targets = Targets(["Linear", "re:.*q_proj", "a.q_proj"])
    assert targets.target_for("a.q_proj") == "a.q_proj"
    assert targets.target_for("b.q_proj") == "re:.*q_proj"
    assert targets.target_for("b.k_proj") == "Linear"
    assert Targets(["re:.*q_proj"]).target_for("b.k_proj") is None
    assert not matches("re:.*", "n" * 5000)
    assert Targets(["re:.*"]).pattern_for("n" * 5000) is None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_list_means_what_each_of_its_patterns_says(pattern):
    targets = Targets(["re:nothing.*", f"re:{pattern}", "re:.*never"])
    assert [name for name in NAMES if targets.pattern_for(name)] == [n for n in NAMES if re.match(pattern, n)]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), st.text("ab.", max_size=7))
def test_the_first_pattern_of_a_list_counts(patterns, name):
    first = next((f"re:{pattern}" for pattern in patterns if re.match(pattern, name)), None)
    assert Targets([f"re:{pattern}" for pattern in patterns]).pattern_for(name) == first


MODULES = [f"model.layers.{i}.mlp.experts.{e}.{p}_proj" for i in range(32) for e in range(64) for p in ("gate", "up")]


@pytest.mark.parametrize(
    "targets",
    [
        [f"re:model\\.layers\\.{i}\\.mlp\\.experts\\.{e}\\..*" for i in range(20) for e in range(64)],
        MODULES * 8,
        [f"re:.*x{number}.*" for number in range(4000)],
        [f"re:(?!.*x{number}).*never" for number in range(256)],
        [f"re:(?!.*x{number}).*never" for number in range(4000)],
        [f"re:.*{'a?' * 100}{'b' * 50}{number}" for number in range(500)],
        ["re:" + ".*".join("mlpexpertsgate_proj" * 5) + "x"] * 200,
    ],
    ids=["experts", "names", "stars", "ahead", "far ahead", "optional", "spread"],
)
def test_no_list_takes_long(targets):
    with within(6):
        try:
            found = Targets(targets)
            for module in MODULES:
                found.target_for(module)
        except UnsupportedError as error:
            assert "too long" in error.message or "patterns" in error.message
            assert error.hint


def test_what_real_folders_say_is_understood():
    ignore = Targets(["lm_head", "re:.*lm_head", "re:visual.*", "re:model.vision.*", "re:.*mlp.gate$",
                      "re:.*block_sparse_moe.gate", "re:.*router"])  # fmt: skip
    assert ignore.means("lm_head")
    assert ignore.means("model.layers.3.mlp.gate")
    assert not ignore.means("model.layers.3.mlp.gate_proj")
    dynamic = Targets([r"re:.*\.18\..*gate.*", r"re:^model\.layers\.(?!0\.).*down_proj"])
    assert dynamic.pattern_for("model.layers.18.mlp.gate_proj") == r"re:.*\.18\..*gate.*"
    assert dynamic.pattern_for("model.layers.7.mlp.down_proj")
    assert dynamic.pattern_for("model.layers.0.mlp.down_proj") is None

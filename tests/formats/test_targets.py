"""Targets of compressed-tensors: which modules they mean, and that no pattern takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import UnsupportedError
from quantkit.formats.targets import first_match, matches

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
    start = time.process_time()
    try:
        assert not matches(f"re:{pattern}", "a" * 500)
    except UnsupportedError as error:
        assert "too long" in error.message
    assert time.process_time() - start < 2


def test_the_name_decides_before_a_pattern_and_a_pattern_before_the_class():
    targets = ["Linear", "re:.*q_proj", "a.q_proj"]
    assert first_match(targets, "a.q_proj") == "a.q_proj"
    assert first_match(targets, "b.q_proj") == "re:.*q_proj"
    assert first_match(targets, "b.k_proj") == "Linear"
    assert first_match(["re:.*q_proj"], "b.k_proj") is None
    assert not matches("re:.*", "n" * 5000)

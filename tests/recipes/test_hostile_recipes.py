"""Recipes and patterns from strangers: whatever they hold costs little and is refused by name."""

from __future__ import annotations

import fnmatch
import tracemalloc
from pathlib import Path

import pytest
from commands import TINY, quantkit
from hypothesis import given
from hypothesis import strategies as st
from machine_speed import within
from test_recipe import model

from quantkit.errors import MAX_LENGTH, RecipeError, did_you_mean, nearest
from quantkit.patterns import MAX_WORK, PatternError, compile_glob, compile_search, require_work
from quantkit.plan.mixture import choose_types
from quantkit.recipes.read import load_recipe
from quantkit.recipes.scan import MAX_DEPTH, MAX_DOTS, MAX_ITEMS, TooComplexError, require_simple

HEAD = 'schema = 1\ntitle = "X"\n'
DEFAULT = '[default]\nqtype = "q8_0"\n'
SERVER = f'{HEAD}container = "gptq"\n'

DOTTED = '."a"'

# text of a recipe -> what the refusal says
BOMBS = {
    "deep key": (f"{HEAD}x{'.a' * 100_000} = 1\n{DEFAULT}", "nested too deeply, at line 3"),
    "deep quoted key": (f"{HEAD}x{DOTTED * 40_000} = 1\n{DEFAULT}", "nested too deeply"),
    "deep key with spaces": (f"{HEAD}x{' . a' * 40_000} = 1\n{DEFAULT}", "nested too deeply"),
    "deep table": (f"{HEAD}[x{'.a' * 100_000}]\n{DEFAULT}", "nested too deeply"),
    "deep inline key": (f"{HEAD}x = {{y{'.a' * 100_000} = 1}}\n{DEFAULT}", "nested too deeply"),
    "deep title": (f"schema = 1\ntitle{'.a' * 1500} = 1\n{DEFAULT}", "nested too deeply"),
    "deep arrays": (f"{HEAD}x = {'[' * 9}{']' * 9}\n{DEFAULT}", "nested too deeply"),
    "deep tables": (f"{HEAD}x = {'{a = ' * 900}1{'}' * 900}\n{DEFAULT}", "nested too deeply"),
    "many tables": (HEAD + "".join(f"[a{i}]\n" for i in range(30_000)) + DEFAULT, "more than 20,000 values"),
    "many values": (f"{HEAD}x = [{'1,' * 100_000}]\n{DEFAULT}", "more than 20,000 values"),
    "many digits": (f"{HEAD}x = {'9' * 5000}\n{DEFAULT}", "5,000 characters, at line 3"),
    "schema in hex": (f'schema = 0x{"f" * 5000}\n{DEFAULT}', "5,002 characters"),
    "schema in short hex": (f'schema = 0x{"f" * 100}\n{DEFAULT}', "schema: is 2582249878086908589655919..."[:30]),
    "file_type in hex": (f"{HEAD}file_type = 0x{'f' * 150}\n{DEFAULT}", "not an unsigned 32-bit number"),
    "bits in hex": (f"{SERVER}[weights]\nbits = 0x{'f' * 150}\n", "not between 2 and 8"),
    "group in hex": (f"{SERVER}[weights]\ngroup = 0x{'f' * 150}\n", "no size of a group"),
    "type in hex": (f"{HEAD}[default]\nqtype = 0x{'f' * 150}\n", "default.qtype: expected a string"),
    "long type": (f'{HEAD}[default]\nqtype = "{"q8_04k_m" * 25_000}"\n', "unknown .*200,000 characters"),
    "long key": (f"{HEAD}{'x' * 200_000} = 1\n{DEFAULT}", "200,000 characters"),
    "alpha is nan": (f"{SERVER}[method]\nalpha = nan\n", "alpha: expected a finite number, found nan"),
    "alpha is huge": (f"{SERVER}[method]\nalpha = 0x{'f' * 150}\n", "alpha: expected a finite number"),
    "alpha is a date": (f"{SERVER}[method]\nalpha = 1979-05-27\n", "alpha: expected a finite number"),
    "container is a number": (f"{HEAD}container = 3\n", "container: expected a string"),
    "escapes": (f'{HEAD}rule = [{{qtype = "\\u001b[31mX"}}]\n{DEFAULT}', r"\\x1b\[31mX"),
    "open string": (f'{HEAD}x = "{"a" * 100_000}\n{DEFAULT}', "not valid TOML"),
    "open strings": (HEAD + "x = '''" + '\\"""' * 50_000, "not valid TOML"),
    "quotes": (HEAD + 'x = """' + '\\"""' * 50_000, "not valid TOML"),
    "shared rules again and again": (HEAD + '[[rule]]\nuse = "output"\n' * 500 + DEFAULT, "more than 512 rules"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_would_explode_is_refused_at_once(name: str, tmp_path: Path) -> None:
    text, message = BOMBS[name]
    path = tmp_path / "r.toml"
    path.write_text(text)
    load_recipe("q8_0")
    tracemalloc.start()
    try:
        with within(2), pytest.raises(RecipeError, match=message) as caught:
            load_recipe(str(path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) < 1000
    assert caught.value.message.isprintable()


def test_what_is_only_shown_is_fit_for_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    bad = '"\\u001b[31mred"'
    path.write_text(f"{HEAD}summary = {bad}\nstrict = false\n[[rule]]\nqtype = 'q6_k'\nwhy = {bad}\n{DEFAULT}")
    recipe = load_recipe(str(path))
    assert recipe.summary == recipe.rules[0].why == r"\x1b[31mred"
    assert quantkit("plan", TINY, "--to", path).status == 0


@pytest.mark.parametrize("word", ["0", "1", "0.25"])
def test_an_integer_is_a_number(word: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'{SERVER}[method]\nname = "gptq"\nalpha = {word}\n')
    recipe = load_recipe(str(path))
    assert recipe.method.alpha == float(word)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (f"{'a.' * MAX_DOTS}a = 1", True),
        (f"{'a.' * (MAX_DOTS + 1)}a = 1", False),
        (f"x = {'[' * MAX_DEPTH}", True),
        (f"x = {'[' * (MAX_DEPTH + 1)}", False),
        (f'x = [\'{"[" * 100}\', "{"." * 100}\\"{"[" * 100}"] # {"[." * 100}', True),
        (f'x = \'\'\'\n{"[." * 100}\n\'\'\' \ny = """{"[." * 100}"""""', True),
        (f"x = [{'1.5, ' * 100}]", True),
        ("," * MAX_ITEMS, True),
        ("," * (MAX_ITEMS + 1), False),
    ],
)
def test_only_what_is_outside_strings_and_comments_counts(text: str, fits: bool) -> None:
    if fits:
        require_simple(text)
    else:
        with pytest.raises(TooComplexError):
            require_simple(text)


GLOBS = st.text(st.sampled_from("ab.*?[]!-"), max_size=12)
QUIRK = "a range that holds nothing, whose neighbour fnmatch then takes for a negation"


@given(GLOBS, st.text(st.sampled_from("ab.]-!["), max_size=10))
def test_globs_fit_as_in_fnmatch(glob: str, name: str) -> None:
    if not any(f"{high}-{low}" in glob for high in "ab.*?[]!-" for low in "ab.*?[]!-" if high > low):  # QUIRK
        assert compile_glob(glob)(name) == fnmatch.fnmatchcase(name, glob)


@pytest.mark.parametrize("glob", ["*a" * 100 + "b", "*?" * 100 + "b", "*[ab]" * 40 + "c", "*" * 200 + "b"])
def test_no_glob_takes_long(glob: str) -> None:
    with within(1):
        assert not any(compile_glob(glob)("a" * 512) for _ in range(100))


def test_globs_for_more_tensors_than_there_is_time_are_refused(tmp_path: Path) -> None:
    globs = "".join(f'"{i}*",' for i in range(100))
    rules = f'[[rule]]\nqtype = "q8_0"\nnames = [{globs}]\n' * 100
    path = tmp_path / "r.toml"
    path.write_text(f"{HEAD}strict = false\n{rules}{DEFAULT}")
    recipe = load_recipe(str(path))
    few, many = (model(*(f"t{i}.weight" for i in range(count))) for count in (100, 200))
    choose_types(few, recipe, {}, imatrix=False)
    with pytest.raises(RecipeError, match="too many for 200 tensors"):
        choose_types(many, recipe, {}, imatrix=False)
    require_work(["*"], MAX_WORK // 2)
    with pytest.raises(PatternError):
        require_work(["*?"], MAX_WORK // 2)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(?=b)", r"looks ahead, \(\?=\.\.\.\)"),
        ("a(?!b)", r"looks ahead, \(\?!\.\.\.\)"),
        ("(?<=b)a", "looks behind"),
        ("(?<!b)a", "looks behind"),
        ("(?>b)a", "atomic group"),
        (r"(a)\1", "refers back"),
        ("(?P<n>a)(?P=n)", "refers back"),
        ("[", r"missing \]"),
        ("a{2000}", "repetition size"),
        ("((a{100}){100}){100}", "repetition size"),
        ("a" * 1001, "more than 1,000 characters"),
        ("\udcff", "not Unicode"),
    ],
)
def test_patterns_that_cannot_be_matched_in_bounded_time_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        compile_search(pattern)


@pytest.mark.parametrize(("pattern", "name"), [(r"\.(q|k)_proj$", "l.0.q_proj"), ("ATTN", "attn"), (r"a\\1", "a\\1")])
def test_patterns_are_searched_in_any_case(pattern: str, name: str) -> None:
    assert compile_search(pattern)(name)
    assert not compile_search(pattern)("other")


def test_a_pattern_that_backtracks_takes_no_time() -> None:
    with within(1):
        assert not compile_search("(a+)+b")("a" * 500)


def test_a_refused_pattern_says_which_operator() -> None:
    outcome = quantkit("plan", TINY, "--keep", "(?!attn)x=q8_0")
    assert outcome.status == 2
    assert "looks ahead" in outcome.stderr


def test_no_suggestion_for_what_is_no_name() -> None:
    with within(1):
        assert did_you_mean("q4_k" * 50_000, ["q4_k", "q5_k"]) == ""
        assert nearest("q4_k" * 50_000, ["q4_k", "q5_k"], 1) == ["q4_k"]
        assert did_you_mean("q4_kk", ["q4_k", "q4_k" * MAX_LENGTH]) == '; did you mean "q4_k"?'

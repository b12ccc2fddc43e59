"""The model card: front matter that YAML reads back, Markdown that nothing breaks, and nobody's README.md is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import TINY, quantkit
from markdown_it import MarkdownIt

from quantkit.pipeline.card import command
from quantkit.report.card import Base, Card, Measured, Variant, block, code, plain, scalar, unchanged
from quantkit.report.manifest import read_manifest
from quantkit.report.next_steps import NextStep
from quantkit.report.records import FileRecord

HOSTILE = (
    "---\nlicense: mit\n---",
    'a": b\n- c: [d',
    "no",
    "0x10",
    "1:30",
    "~",
    "!!python/object:os.system",
    "&a *a",
    "# comment",
    "| cell | `code` ``more`` ```fence```",
    "</table><script>alert(1)</script>",
    "[x](javascript:alert(1)) ![i](http://x/y) www.evil.example",
    "\ud800\udcff half",
    "\u202e\x00\x1b[31m\x85\u2028",
    "y" * 2000,
    "` unbalanced",
    "line\n\n# heading\n\n```\nbroken out",
)


def card(text: str) -> Card:
    said = {"license": (text,), "license_name": text, "license_link": text, "languages": (text,), "tags": (text, text)}
    base = Base(text, text, text, text, 1000, **said, pipeline=text)
    estimate = {"value": 0.5, "standard_error": 0.1}
    measured = Measured(estimate, estimate, estimate, 5, text, text, text)
    variant = Variant(
        text, (FileRecord(text, 10, "0" * 64),), 4.5, measured, (f"Recipe {code(text)}.",), text.replace("\n", " "),
        (NextStep(text, text.replace("\n", " ")),),
    )  # fmt: skip
    return Card(text, base, (variant,), text, (text,), text)


def front_matter(data: bytes) -> dict[str, Any]:
    _, front, _ = data.decode().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:16]))
def test_hostile_values_break_neither_yaml_nor_markdown(text: str) -> None:
    data = card(text).encode()
    told = text[:300].encode("utf-8", "replace").decode()
    front = front_matter(data)
    assert front["license"] == front["license_name"] == front["pipeline_tag"] == front["quantized_by"] == told
    assert front["tags"] == front["language"] == [told]
    assert set(front) == {
        "license", "license_name", "license_link", "language", "library_name", "pipeline_tag", "tags", "quantized_by",
    }  # fmt: skip
    body = data.decode().split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Variants", "How to run", "How it was made", "Licence"]
    assert sum(token.type == "fence" for token in tokens) == 2
    [table] = [at for at, token in enumerate(tokens) if token.type == "table_open"]
    rows = [token.type for token in tokens[table:]].count("tr_open")
    cells = [token.type for token in tokens[table:]].count("td_open")
    assert (rows, cells) == (2, 7)
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {"link_open", "image", "html_inline"}
    assert [token.content for token in tokens if token.type == "html_block"] == [data.decode().splitlines()[-1] + "\n"]


@pytest.mark.parametrize("text", [*HOSTILE, "apache-2.0", "en", "text-generation", "a.b/c+d", "", " x "])
def test_scalars_read_back(text: str) -> None:
    assert yaml.safe_load(f"key: {scalar(text)}\n") == {"key": text[:300].encode("utf-8", "replace").decode()}
    assert yaml.load(f"- {scalar(text)}\n", yaml.CSafeLoader) == [text[:300].encode("utf-8", "replace").decode()]


def test_plain_words_stay_plain() -> None:
    assert [scalar(text) for text in ("apache-2.0", "gguf", "no", "true")] == ["apache-2.0", "gguf", '"no"', '"true"']
    assert code("a`b") == "`` a`b ``"
    assert block("bash", ["x ``` y"])[0] == "````bash"
    assert plain("a|b<c>") == "a\\|b\\<c\\>"


SOURCE_CARD = """---
license: other
license_name: my licence
license_link: LICENSE
language: [en, "no"]
tags: [code, safetensors]
pipeline_tag: text-generation
---
# Model
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GGUF files made with --card from a source with a card, and a checkpoint below."""
    folder = tmp_path_factory.mktemp("card")
    shutil.copytree(TINY, folder / "src")
    (folder / "src" / "README.md").write_text(SOURCE_CARD)
    quiet = ("--no-verify", "-q", "--card")
    made = quantkit(
        "convert", folder / "src", "--to", "q8_0,q4_0", "--keep", "attn_v=q6_k", "-o", folder / "out", *quiet
    )
    assert made.status == 0, made.stderr
    made = quantkit("convert", folder / "src", "--to", "fp8", "-o", folder / "all" / "fp8", *quiet)
    assert made.status == 0, made.stderr
    return folder


def test_convert_writes_the_card(made: Path) -> None:
    data = (made / "out" / "README.md").read_bytes()
    assert unchanged(data)
    front = front_matter(data)
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "my licence", "LICENSE")
    assert front["language"] == ["en", "no"]
    assert front["tags"] == ["gguf", "quantized", "quantkit", "code", "safetensors"]
    assert (front["library_name"], front["pipeline_tag"]) == ("gguf", "text-generation")
    assert "base_model" not in front  # nobody knows its repository
    text = data.decode()
    for path in (made / "out").glob("*.manifest.json"):
        manifest = read_manifest(path)
        [file] = manifest.artifact
        assert f"| `{file.name}` | {file.nbytes:,} bytes |" in text
        assert f"`{file.sha256}`" in text
        assert f"{manifest.facts['size']['bits_per_weight']:.2f}" in text
    assert text.count("not measured |") == 6
    assert "quantkit convert ./src --to q4_0 --keep attn_v=q6_k -o out" in text
    assert "llama-cli -m" in text
    assert "echo 'FROM ./src-Q4_0.gguf'" in text
    assert str(made) not in text  # of this machine nobody else has to know
    assert str(Path.cwd()) not in text
    front = front_matter((made / "all" / "fp8" / "README.md").read_bytes())
    assert front["tags"][0] == "compressed-tensors"
    assert "vllm serve" in (made / "all" / "fp8" / "README.md").read_text()


def test_an_artifact_with_a_card_verifies_whatever_becomes_of_the_card(made: Path) -> None:
    for artifact in (made / "out" / "src-Q8_0.gguf", made / "all" / "fp8"):
        found = quantkit("verify", artifact, "--against", made / "src")
        assert found.status == 0, found.stdout
    readme = made / "all" / "fp8" / "README.md"
    kept = readme.read_bytes()
    readme.write_text("mine now")
    assert quantkit("verify", made / "all" / "fp8", "-q").status == 0
    assert "README.md" not in (made / "all" / "fp8" / "SHA256SUMS").read_text()
    readme.write_bytes(kept)


def test_a_persons_readme_is_never_lost(made: Path) -> None:
    readme = made / "out" / "README.md"
    own = readme.read_bytes()
    for mine in (b"# mine\n", own.replace(b"Variants", b"My variants"), own + b"more\n"):
        readme.write_bytes(mine)
        found = quantkit("card", made / "out")
        assert (found.status, "written or edited by somebody" in found.stderr) == (6, True)
        again = ("convert", made / "src", "--to", "q8_0", "--keep", "attn_v=q6_k", "-o", made / "out", "--card")
        found = quantkit(*again)
        assert (found.status, "written or edited by somebody" in found.stderr) == (6, True)
        assert readme.read_bytes() == mine
    assert quantkit("card", made / "out", "--against", made / "src", "--force").status == 0
    assert readme.read_bytes() == own
    assert quantkit("card", made / "out", "--against", made / "src").status == 0  # its own is replaced
    source = made / "src" / "README.md"
    found = quantkit("convert", made / "src", "--to", "q8_0", "-o", made / "src", "--card", "--force")
    assert (found.status, "is an input" in found.stderr) == (6, True)
    assert source.read_text() == SOURCE_CARD
    assert not list((made / "src").glob("*.gguf"))


def test_measurements_count_for_their_artifact_alone(made: Path, tmp_path: Path) -> None:
    text = TINY.parent / "held-out.jsonl"
    few = ("--against", made / "src", "--data", text, "--window", 64, "--tokens", 300)
    found = quantkit("eval", made / "out" / "src-Q4_0.gguf", *few, "--json")
    (tmp_path / "measured.json").write_text(found.stdout)
    options = ("--against", made / "src", "--eval", tmp_path / "measured.json", "--base-model", "org/name")
    assert quantkit("card", made / "out", *options, "--quantized-by", "me").status == 0
    shown = (made / "out" / "README.md").read_text()
    assert shown.count("not measured") == 3
    [row] = [line for line in shown.splitlines() if line.startswith("| `src-Q4_0.gguf`")]
    kl = found.json["artifacts"][0]["kl"]
    assert f"{kl['value']:.3g} ± {kl['standard_error']:.2g}" in row
    front = front_matter(shown.encode())
    assert (front["base_model"], front["base_model_relation"]) == ("org/name", "quantized")
    assert front["quantized_by"] == "me"
    assert front["license_link"] == "LICENSE"


def test_a_card_takes_the_place_of_the_sources(made: Path, tmp_path: Path) -> None:
    quiet = ("--no-verify", "-q")
    assert quantkit("convert", made / "src", "--to", "fp8", "-o", tmp_path / "fp8", *quiet).status == 0
    assert (tmp_path / "fp8" / "README.md").read_text() == SOURCE_CARD
    manifest = tmp_path / "fp8" / "model.manifest.json"
    before = manifest.read_bytes()
    manifest.write_bytes(before.replace(b'"platform": "', b'"platform": "my '))
    found = quantkit("card", tmp_path / "fp8")
    assert (found.status, "was changed: its seal" in found.stderr) == (3, True)  # nobody else would notice any more
    manifest.write_bytes(before)
    (tmp_path / "fp8" / "README.md").write_text(f"{SOURCE_CARD}mine")
    assert quantkit("card", tmp_path / "fp8").status == 6
    (tmp_path / "fp8" / "README.md").write_text(SOURCE_CARD)
    assert quantkit("card", tmp_path / "fp8", "-q").status == 0
    text = (tmp_path / "fp8" / "README.md").read_text()
    assert (
        "Recipe `fp8`" in text
        and "my licence" in text
        and "README.md" not in (tmp_path / "fp8" / "SHA256SUMS").read_text()
    )
    assert quantkit("verify", tmp_path / "fp8", "--against", made / "src", "-q").status == 0
    again = quantkit("convert", made / "src", "--to", "fp8", "-o", tmp_path / "fp8", *quiet, "--json")
    assert [each["built"] for each in again.json["artifacts"]] == [False]
    assert (tmp_path / "fp8" / "README.md").read_text() == text
    assert quantkit("quantize", made / "src", "--to", "fp8", "-o", tmp_path / "work", "-q").status == 0
    for _ in range(2):  # the second time it is found as it is
        assert quantkit("pack", tmp_path / "work" / "FP8", "-o", tmp_path / "p8", "--card", "-q").status == 0
        assert "Recipe `fp8`" in (tmp_path / "p8" / "README.md").read_text()
        assert quantkit("verify", tmp_path / "p8", "--against", made / "src", "-q").status == 0
    assert quantkit("quantize", made / "src", "--to", "q8_0", "-o", tmp_path / "work", "--card", "-q").status == 0
    assert quantkit("pack", tmp_path / "work" / "Q8_0", "-o", tmp_path / "packed", "--card", "-q").status == 0
    front = front_matter((tmp_path / "packed" / "README.md").read_bytes())
    assert (front["license"], front["license_name"], front["language"]) == ("other", "my licence", ["en", "no"])


def test_what_another_user_released_stays_as_it_is(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Her manifest is not believed, and a release that she may have signed is not written over: exit 6 says so."""
    make = ("convert", made / "src", "--to", "fp8", "-o", tmp_path / "fp8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "maker"))
    assert quantkit(*make, "-q").status == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "publisher"))
    assert quantkit("release", tmp_path / "fp8", "-q").status == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "fp8").iterdir()}
    for user in ("maker", "publisher"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
        found = quantkit(*make)
        assert (found.status, "another released it, with a README.md of its own" in found.stderr) == (6, True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "fp8").iterdir()} == before


def test_a_folder_of_folders_gets_a_card_each(made: Path) -> None:
    (made / "all" / "fp8" / "README.md").unlink()
    found = quantkit("card", made / "all", "--dry-run")
    assert (found.status, found.stdout) == (0, f"would write {made / 'all' / 'fp8' / 'README.md'}\n")
    assert not (made / "all" / "fp8" / "README.md").exists()
    found = quantkit("card", made / "all", "--json").json
    assert found["cards"] == [str(made / "all" / "fp8" / "README.md")]
    assert "not name it" in (made / "all" / "fp8" / "README.md").read_text()  # without its source nobody knows


def test_what_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for status, said, arguments in (
        (3, "no artifact with a manifest", (tmp_path / "empty",)),
        (3, "does not exist", (tmp_path / "none",)),
        (2, "names no repository", (made / "out", "--base-model", "not a repository")),
        (3, "does not exist", (made / "out", "--against", tmp_path / "none")),
    ):
        found = quantkit("card", *arguments)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


def test_the_command_is_one_that_a_shell_reads(made: Path) -> None:
    manifest = read_manifest(next((made / "out").glob("*Q4_0.manifest.json")))
    object.__setattr__(manifest, "source", {"repo": "org/name", "commit": "c" * 40, "name": "x"})
    object.__setattr__(manifest, "recipe", {"name": "my recipe;rm -rf --keep a|b=q8_0 --pure"})
    facts = {"name": "default, mine.jsonl", "ids": [1, 2], "seqlen": 64}
    object.__setattr__(manifest, "facts", {**manifest.facts, "calibration": facts})
    assert command(manifest) == (
        f"quantkit convert hf://org/name@{'c' * 40} --to 'my recipe;rm -rf' --keep 'a|b=q8_0' --pure "
        "--calib default --calib mine.jsonl --samples 2 --seqlen 64 -o out"
    )
    assert json.loads(json.dumps(command(manifest)))

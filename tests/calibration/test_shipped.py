"""The text behind `--calib default`: what is in it, who can read it, and how it is reached and recorded."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from commands import quantkit
from walks import TINY

from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.data import load_texts
from quantkit.calibration.text.shipped import FILE, data_path
from quantkit.calibration.text.spec import prepare_samples
from quantkit.calibration.text.templates import ChatTemplate
from quantkit.errors import InputError
from quantkit.pipeline.request import Request
from quantkit.source import open_source

ROOT = Path(__file__).parents[2]
RAW = FILE.read_bytes()
ROWS = [json.loads(line) for line in RAW.decode().splitlines()]
SHA256 = hashlib.sha256(RAW).hexdigest()
SMALL = ["--samples", "2", "--seqlen", "32"]
MODELS = [TINY, *sorted((ROOT.parent / "shared" / "models").glob("docs-llama-21m"))]
# A letter of each script that a tokenizer of today's models writes in a way of its own.
SCRIPTS = {"Cyrillic": "\u0430", "Han": "\u4e00", "kana": "\u3042", "Hangul": "\ud55c", "Arabic": "\u0627",
           "Devanagari": "\u0915", "German": "\u00df", "Polish": "\u0142", "Turkish": "\u011f", "Portuguese": "\u00e3",
           "Spanish": "\u00f1"}  # fmt: skip


def words(row: dict[str, object]) -> str:
    messages = row.get("messages", [])
    return str(row.get("text") or "\n".join(m["content"] for m in messages))  # type: ignore[attr-defined, index]


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_the_documents_say_what_is_in_it() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert SHA256 in text
    assert f"{len(ROWS)} documents" in text
    domains = {row["domain"] for row in ROWS}
    assert f"{len(domains)} kinds" in text


def test_any_stretch_of_it_is_a_mixture() -> None:
    assert len({row["domain"] for row in ROWS}) >= 12
    for start in range(len(ROWS) - 31):
        assert len({row["domain"] for row in ROWS[start : start + 32]}) >= 6, start


def test_it_reads_like_text_somebody_wrote() -> None:
    """No templates filled in again and again, no document twice, room for windows."""
    found = [words(row) for row in ROWS]
    assert len(set(found)) == len(found)
    assert len(RAW) / len(gzip.compress(RAW, 9)) < 3.2
    assert all(len(text) >= 200 for text in found)
    lines = [line for text in found for line in text.splitlines() if len(line) >= 60]
    assert len(lines) - len(set(lines)) <= len(lines) // 100


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_has_letters_of(script: str) -> None:
    assert SCRIPTS[script] in RAW.decode()


def test_every_template_takes_its_conversations() -> None:
    """User and assistant take turns, the user first: some templates refuse all else."""
    talks = [row["messages"] for row in ROWS if "messages" in row]
    assert talks
    for messages in talks:
        assert len(messages) % 2 == 0
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(isinstance(m["content"], str) and m["content"] == m["content"].strip() for m in messages)


def test_the_wheel_has_it(tmp_path: Path) -> None:
    """As the recipes, which the wheel takes from another folder."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    [built] = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        assert archive.read(f"quantkit/{FILE.relative_to(ROOT / 'quantkit').as_posix()}") == RAW
        assert "quantkit/recipes/q4_k_m.toml" in archive.namelist()


# --- who can read it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_it_is_enough_for_the_tokenizer_of(folder: Path) -> None:
    heard: list[object] = []
    samples = prepare_samples(open_source(str(folder)), CalibrationSpec(("default",)), heard.append)
    assert not heard, "nothing to warn of"
    assert samples.record.sha256 == SHA256
    assert samples.record.documents == len(ROWS)


def test_conversations_go_through_the_models_template() -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", {})
    texts = load_texts("default", template)
    talks = [row["messages"] for row in ROWS if "messages" in row]
    assert texts.rendered
    assert f"<user>{talks[0][0]['content']}<assistant>{talks[0][1]['content']}" in "\n".join(texts.documents)


def test_without_a_template_they_are_dialogue() -> None:
    texts = load_texts("default")
    talks = [row["messages"] for row in ROWS if "messages" in row]
    assert (texts.name, texts.sha256, texts.rendered, texts.skipped) == ("default", SHA256, False, 0)
    assert len(texts.documents) == len(ROWS)
    [found] = [text for text in texts.documents if talks[0][0]["content"] in text]
    assert found.startswith(f"User: {talks[0][0]['content']}\n\nAssistant: ")


def test_a_file_elsewhere_still_needs_a_template(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(RAW)
    with pytest.raises(InputError, match="no chat template"):
        load_texts(str(copy))


# --- how it is reached ------------------------------------------------------------------------------------------------


def test_a_file_of_that_name_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("default").write_text("My own text.")
    assert load_texts("./default").documents == ("My own text.",)
    own = load_texts(str(tmp_path / "default"))
    assert (own.documents, own.name) == (("My own text.",), "./default")
    assert load_texts("default").sha256 == SHA256


@pytest.mark.parametrize(
    ("calib", "file"),
    [("default", FILE), (["default"], FILE), (Path("default"), Path("default")), ([Path("default")], Path("default"))],
)
def test_in_python_a_path_is_a_file(calib: object, file: Path) -> None:
    request = Request("model", calib=calib)  # type: ignore[arg-type]
    assert [data_path(name) for name in request.calib] == [file]
    with nullcontext() if file == FILE else pytest.raises(InputError, match="default"):
        assert load_texts(request.calib[0]).sha256 == SHA256


def test_too_long_a_sequence_is_an_error_as_with_any_file() -> None:
    with pytest.raises(InputError, match=r"default has [\d,]+ tokens") as caught:
        prepare_samples(open_source(str(TINY)), CalibrationSpec(("default",), seqlen=1 << 20))
    assert "--seqlen" in (caught.value.hint or "")


def test_convert_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file of that name lies beside. For checkpoints, which take longer, the command of the README does
    it (`test_the_commands_of_the_readme_run`)."""
    monkeypatch.chdir(tmp_path)
    Path("default").write_text("too short")
    ran = quantkit("convert", TINY, "--to", "q4_k_m", "--calib", "default", *SMALL, "-o", "out")
    assert ran.status == 0, ran.stderr
    [path] = Path("out").glob("*.manifest.json")
    record = json.loads(path.read_text())["calibration"]
    assert (record["name"], record["sha256"], record["tokens"]) == ("default", SHA256, 64)
    assert str(ROOT) not in path.read_text().replace(str(TINY), "")


def test_calibrate_and_plan_take_it(tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    made = quantkit("calibrate", TINY, "--data", "default", *SMALL, "-o", out, "--json")
    assert made.status == 0, made.stderr
    assert made.json["data"]["name"] == "default"
    assert str(FILE.parent).encode() not in out.read_bytes()
    planned = quantkit("plan", TINY, "--to", "gptq-w4g128", "--calib", "default", *SMALL, "--json")
    assert planned.status == 0, planned.stderr
    assert planned.json["plans"][0]["calibrated"]


def test_whoever_lacks_text_is_told_of_it(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "gptq-w4g128", "-o", tmp_path)
    assert ran.status != 0
    assert re.search(r"hint:.*--calib default", ran.stderr)

"""Modelfiles: written so that they read back, beside GGUF files, replaced only where nobody edited them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import string
from pathlib import Path

import pytest
from adapters import make_adapter, weights_of
from commands import TINY, quantkit
from hypothesis import given
from hypothesis import strategies as st
from published import require
from templates_at_hand import in_process

from quantkit.cli.exits import exit_code
from quantkit.cli.main import main
from quantkit.errors import ExistsError
from quantkit.formats.gguf.file import read_gguf
from quantkit.metadata import KeyValue
from quantkit.ollama import Modelfile, ModelfileError, describe, parse_modelfile, read_header, unchanged
from quantkit.ollama.modelfile import keeps, keeps_line

EXISTS = exit_code(ExistsError("there"))
CHATML = (
    "{% if messages[0].role != 'system' %}<s>system\nYou are Test.</s>\n{% endif %}"
    "{% for m in messages %}{{ '<s>' + m.role + '\\n' + m.content + '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)


def folder_with(tmp_path: Path, template: str | None = CHATML) -> Path:
    """The tiny model with a chat template and ways to sample."""
    folder = Path(shutil.copytree(TINY, tmp_path / "Tiny-Chat"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    generation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: https://example.org/x\n---\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GGUF file that was made for Ollama."""
    tmp_path = tmp_path_factory.mktemp("made")
    ran = quantkit("convert", folder_with(tmp_path), "--to", "q8_0", "--for", "ollama", "-o", tmp_path / "out",
                   "--no-verify", "--json")  # fmt: skip
    assert ran.status == 0, ran.stderr
    require(ran.json)
    [artifact] = ran.json["artifacts"]
    assert artifact["modelfile"] == str(tmp_path / "out" / "Modelfile")
    said = {step["for"]: step["command"] for step in artifact["next"]}
    assert said["ollama"].startswith("ollama create tiny-chat:q8_0 -f ")
    assert "warning[modelfile]" not in ran.stderr
    return tmp_path / "out"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def read(path: Path) -> list[tuple[str, str]]:
    return parse_modelfile(path.read_text("utf-8"))


def test_a_modelfile_says_all_that_ollama_is_to_know(made: Path) -> None:
    found = read(made / "Modelfile")
    assert sorted(name for name, _ in found) == [
        "from", "license", "repeat_penalty", "stop", "system", "temperature", "template", "top_k", "top_p",
    ]  # fmt: skip
    said = dict(found)
    assert said["from"] == "./Tiny-Chat-Q8_0.gguf"
    assert said["system"] == "You are Test."
    assert [value for name, value in found if name == "stop"] == ["</s>"]
    assert float(said["temperature"]) == 0.6
    assert said["top_k"] == "20"
    assert float(said["repeat_penalty"]) == 1.05
    assert said["license"].split() == ["apache-2.0", "https://example.org/x"]


def test_it_has_a_line_in_the_checksums_and_the_artifact_still_verifies(made: Path) -> None:
    lines = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines())
    assert lines["Modelfile"] == hashlib.sha256((made / "Modelfile").read_bytes()).hexdigest()
    assert quantkit("verify", made / "Tiny-Chat-Q8_0.gguf").status == 0


def test_the_same_file_again_is_left_alone_and_what_a_kill_left_out_is_made_up(copy: Path) -> None:
    data, sums = (copy / "Modelfile").read_bytes(), (copy / "SHA256SUMS").read_bytes()
    (copy / "SHA256SUMS").write_bytes(b"".join(x for x in sums.splitlines(True) if b"Modelfile" not in x))
    ran = quantkit("modelfile", copy, "--json")
    assert ran.status == 0, ran.stderr
    require(ran.json)
    assert ((copy / "Modelfile").read_bytes(), (copy / "SHA256SUMS").read_bytes()) == (data, sums)
    (copy / "Modelfile").unlink()
    assert quantkit("modelfile", copy / "Tiny-Chat-Q8_0.gguf").status == 0
    assert (copy / "Modelfile").read_bytes() == data


@pytest.mark.slow
def test_killed_anywhere_it_is_whole_or_not_there(tmp_path: Path) -> None:
    """At every point where the disk is touched; the same command makes up for the rest."""
    out = tmp_path / "out"
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", out, "--no-verify").status == 0
    golden = Path(shutil.copytree(out, tmp_path / "golden", copy_function=os.link))
    assert quantkit("modelfile", golden).status == 0
    wanted = [(golden / name).read_bytes() for name in ("Modelfile", "SHA256SUMS")]
    killed = 0
    for point in range(1, 100):
        folder = Path(shutil.copytree(out, tmp_path / str(point), copy_function=os.link))
        pid = os.fork()
        if pid == 0:
            os.environ["QUANTKIT_FAULT"] = f"kill:{point}"
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(main(["modelfile", str(folder), "--quiet"]))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            break
        killed += 1
        assert not (folder / "Modelfile").exists() or (folder / "Modelfile").read_bytes() == wanted[0]
        assert quantkit("modelfile", folder).status == 0
        assert [(folder / name).read_bytes() for name in ("Modelfile", "SHA256SUMS")] == wanted
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in golden.iterdir())
    assert killed > 8


def test_what_a_person_edited_is_not_replaced_without_force(copy: Path) -> None:
    path = copy / "Modelfile"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"temperature 0.6", b"temperature 0.1"))
    ran = quantkit("modelfile", copy)
    assert ran.status == EXISTS
    assert "edited by somebody" in ran.stderr
    assert b"temperature 0.1" in path.read_bytes()
    assert quantkit("modelfile", copy, "--force").status == 0
    assert path.read_bytes() == data


def test_convert_says_so_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Modelfile").write_text("FROM llama3\n")
    ran = quantkit("convert", folder_with(tmp_path), "--to", "q8_0", "--for", "ollama", "-o", tmp_path / "out")
    assert ran.status == EXISTS
    assert "edited by somebody" in ran.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Modelfile"]


def test_a_card_names_it(copy: Path) -> None:
    assert quantkit("card", copy).status == 0
    assert "ollama create tiny-chat:q8_0 -f Modelfile && ollama run tiny-chat:q8_0" in (copy / "README.md").read_text()


def test_a_dry_run_prints_it_and_writes_nothing(copy: Path) -> None:
    (copy / "Modelfile").unlink()
    before = sorted(path.name for path in copy.iterdir())
    ran = quantkit("modelfile", copy, "--dry-run")
    assert ran.status == 0
    assert dict(parse_modelfile(ran.stdout))["from"] == "./Tiny-Chat-Q8_0.gguf"
    assert "proved on" in ran.stderr
    assert sorted(path.name for path in copy.iterdir()) == before


def test_several_files_have_modelfiles_by_their_names(copy: Path) -> None:
    shutil.copy(copy / "Tiny-Chat-Q8_0.gguf", copy / "Other.gguf")
    assert quantkit("modelfile", copy / "Other.gguf").status == 0  # Modelfile is that of its neighbour
    assert dict(read(copy / "Other.Modelfile"))["from"] == "./Other.gguf"
    assert dict(read(copy / "Modelfile"))["from"] == "./Tiny-Chat-Q8_0.gguf"
    assert quantkit("modelfile", copy).status == 0
    assert dict(read(copy / "Tiny-Chat-Q8_0.Modelfile"))["from"] == "./Tiny-Chat-Q8_0.gguf"


def test_an_encoder_beside_it_is_named_too(copy: Path) -> None:
    shutil.copy(copy / "Tiny-Chat-Q8_0.gguf", copy / "mmproj-Tiny-F16.gguf")
    assert quantkit("modelfile", copy).status == 0
    froms = [value for name, value in read(copy / "Modelfile") if name == "from"]
    assert froms == ["./Tiny-Chat-Q8_0.gguf", "./mmproj-Tiny-F16.gguf"]


@pytest.mark.slow
def test_an_adapter_wants_its_model(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora", weights_of(TINY))
    out = tmp_path / "out"
    ran = quantkit("convert", adapter, "--base", TINY, "--to", "lora-f16", "--for", "ollama", "-o", out, "--no-verify")
    assert ran.status == 0, ran.stderr
    assert "no Modelfile" in ran.stderr
    [file] = out.glob("*.gguf")
    assert quantkit("modelfile", file).status == 2
    assert quantkit("modelfile", file, "--base", "llama3.2").status == 0
    assert read(out / "Modelfile") == [("from", "llama3.2"), ("adapter", f"./{file.name}")]


@pytest.mark.parametrize(
    ("arrange", "status", "said"),
    [
        (lambda folder: folder / "nothing.gguf", 3, "does not exist"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", 3, "holds no GGUF file of a model"),
        (lambda folder: shutil.copy(folder / "Modelfile", folder / "x.gguf"), 3, "GGUF"),
        (
            lambda folder: shutil.copy(folder / "Tiny-Chat-Q8_0.gguf", folder / "x-00001-of-00002.gguf"),
            4,
            "one part of several",
        ),
        (lambda folder: shutil.copy(folder / "Tiny-Chat-Q8_0.gguf", folder / "new\nline.gguf"), 3, "cannot name"),
    ],
    ids=["missing", "empty folder", "no GGUF", "part", "name"],
)
def test_mistakes_are_said(arrange, status: int, said: str, copy: Path) -> None:
    ran = quantkit("modelfile", arrange(copy))
    assert (ran.status, said in ran.stderr) == (status, True), ran.stderr
    assert "hint:" in ran.stderr


def test_a_plan_says_that_there_will_be_one() -> None:
    assert "a Modelfile for Ollama" in quantkit("plan", TINY, "--to", "q8_0", "--for", "ollama").stdout
    assert "a Modelfile for Ollama" not in quantkit("plan", TINY, "--to", "q8_0", "--for", "lmstudio").stdout


def test_a_file_in_parts_is_refused_before_any_work(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "q8_0", "--for", "ollama", "--split-max-size", "2MB", "-o", tmp_path / "o")
    assert ran.status == 4
    assert "one piece" in ran.stderr
    assert not list(tmp_path.glob("o/*.gguf"))


def test_a_checkpoint_has_none(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "hf-bf16", "--for", "ollama", "-o", tmp_path / "o", "--no-verify")
    assert ran.status == 0, ran.stderr
    assert not list(tmp_path.rglob("*Modelfile"))


# --- headers ----------------------------------------------------------------------------------------------------------


def header(made: Path, **changed: object):
    """The header of the file with other values."""
    kept = [kv for kv in read_gguf(made / "Tiny-Chat-Q8_0.gguf").metadata if kv.key.replace(".", "_") not in changed]
    more = [
        KeyValue(key.replace("tokenizer_", "tokenizer.").replace("ggml_", "ggml.").replace("general_", "general."),
                 "string", value)  # type: ignore[arg-type]
        for key, value in changed.items() if value is not None
    ]  # fmt: skip
    return read_header((*kept, *more))


def test_no_template_is_said_and_what_will_happen(made: Path) -> None:
    none = describe(header(made, tokenizer_chat_template=None), ("./x.gguf",), render=in_process)
    assert none.modelfile.template is None
    assert none.modelfile.stops == ("</s>",)
    assert "passes prompts as they are" in none.notes[0]
    odd = describe(header(made, tokenizer_chat_template="{{ messages[-1].content }}"), ("./x.gguf",), render=in_process)
    assert odd.modelfile.template is None
    assert "leaves a message" in odd.notes[0]
    assert "0.30" in odd.notes[1]
    broken = describe(header(made, tokenizer_chat_template=b"\xff\xfe"), ("./x.gguf",), render=in_process)
    assert "not UTF-8" in broken.notes[0]


def test_structural_tokens_are_no_stops(made: Path) -> None:
    """<s> begins every message; it is EOS of this file, and is left out with a word."""
    mine = header(made)
    swapped = type(mine)(**{**vars(mine), "tokens": {**mine.tokens, "eot": "<s>"}})
    described = describe(swapped, ("./x.gguf",), render=in_process)
    assert described.modelfile.stops == ("</s>",)
    assert any('"<s>" ends generation' in note for note in described.notes)


def test_words_are_no_stops(made: Path) -> None:
    mine = header(made)
    word = type(mine)(**{**vars(mine), "tokens": {**mine.tokens, "eos": "the"}, "chat_template": ""})
    assert describe(word, ("./x.gguf",), render=in_process).modelfile.stops == ()


# --- the text ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from('ab "\n\t\r#{}<|>/\u00a0é😀\u2028\x00' + string.punctuation), max_size=40)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_what_a_modelfile_keeps_reads_back(template: str, system: str, stop: str, terms: str) -> None:
    template, system, terms = (text if keeps(text) else "x" for text in (template, system, terms))
    stop = stop if keeps_line(stop) and stop else "</s>"
    file = Modelfile(
        ("./a b.gguf", "./mmproj.gguf"), template=template or None, system=system or None, stops=(stop, "x"),
        parameters={"top_k": 5}, license=terms or None, said=("a\nb",),
    )  # fmt: skip
    data = file.encode()
    wanted = [("from", "./a b.gguf"), ("from", "./mmproj.gguf")]
    wanted += [(name, text) for name, text in (("template", template), ("system", system)) if text]
    wanted += [("stop", stop), ("stop", "x"), ("top_k", "5")] + ([("license", terms)] if terms else [])
    assert parse_modelfile(data.decode()) == wanted
    assert unchanged(data)
    assert not unchanged(data.replace(b"top_k", b"top_p"))


def test_what_ollama_would_lose_is_not_kept() -> None:
    for lost in ("\u00a0", "\x00", "\r", "\u200b", "\u2028", '"""'):
        assert not keeps(f"a{lost}b")
    assert keeps('a\tb\né▁｜😀 "" ')


@pytest.mark.parametrize("text", ["", "TEMPLATE x\n", "FROM a\nNOTHING b\n", 'FROM a\nTEMPLATE """x\n', "FROM\n"])
def test_what_ollama_refuses_is_refused(text: str) -> None:
    with pytest.raises(ModelfileError):
        parse_modelfile(text)


# --- LM Studio --------------------------------------------------------------------------------------------------------


def test_lm_studio_finds_a_file_by_two_folders(tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, "--to", "q8_0", "--for", "lmstudio", "--layout", "lmstudio", "-o", tmp_path,
                   "--no-verify", "--json")  # fmt: skip
    assert ran.status == 0, ran.stderr
    [artifact] = ran.json["artifacts"]
    file = tmp_path / "local" / "docs-llama-tiny-GGUF" / "docs-llama-tiny-Q8_0.gguf"
    assert artifact["files"][0]["path"] == str(file)
    assert file.is_file()
    assert {step["for"]: step["command"] for step in artifact["next"]}["lm-studio"] == "lms ls"


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--layout", "lmstudo"], "lmstudio"), (["--layout", "lmstudio", "--to", "q8_0,mlx-4bit"], "a run of its own")],
)
def test_layouts_that_nobody_knows(options: list[str], said: str, tmp_path: Path) -> None:
    ran = quantkit("convert", TINY, *options, "-o", tmp_path)
    assert ran.status == 2
    assert said in ran.stderr
    assert not list(tmp_path.iterdir())

"""Texts from files: every format, and a clear word on every file that is none."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from checkpoints import build
from walks import TINY

from quantkit.calibration.text.data import load_texts, model_tokens
from quantkit.calibration.text.samples import select_samples
from quantkit.calibration.text.templates import ChatTemplate
from quantkit.errors import InputError, NetworkError, UnsupportedError, UsageError
from quantkit.source import open_source

ROWS = [{"text": "One.\n"}, {"text": "Zwei – drei.", "id": 4}, {"text": " "}]
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is optional")


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("a.ndjson", "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"),
        ("a.json", json.dumps(ROWS, indent=2)),
    ],
)
def test_rows_become_documents(name: str, content: str, tmp_path: Path) -> None:
    texts = load_texts(written(tmp_path / name, content))
    assert texts.documents == ("One.\n", "Zwei – drei.")
    assert texts.name == name
    assert texts.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert not texts.rendered


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    row = json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False)
    assert load_texts(written(tmp_path / "a.jsonl", row)).documents == ("a\u2028b\x85c",)


def test_a_plain_file_is_one_document(tmp_path: Path) -> None:
    assert load_texts(written(tmp_path / "a.txt", "One.\n\nTwo.\n")).documents == ("One.\n\nTwo.\n",)


@needs_pyarrow
def test_parquet_columns_become_documents(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["One.", "Two."]}), path)
    assert load_texts(str(path)).documents == ("One.", "Two.")
    parquet.write_table(pyarrow.table({"content": ["One."]}), path)
    with pytest.raises(InputError, match="has 1 columns, none of them text or messages"):
        load_texts(str(path))
    with pytest.raises(InputError, match="not parquet that can be read"):
        load_texts(written(path, b"PAR1 and then nothing PAR1"))


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    spec = written(tmp_path / "a.parquet", b"PAR1") if package == "pyarrow" else "hf://org/name"
    with pytest.raises(UnsupportedError, match=f"needs {package}, which is not installed") as caught:
        load_texts(spec)
    assert "quantkit-cli[data]" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "has no text"),
        ("a.txt", " \n", "has no text"),
        ("a.jsonl", '{"text": " "}', "has no text"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"content": "x", "id": 1}',
            "row 2 has neither a string text",
        ),
        ("a.jsonl", '{"text": 7}', "row 1 has neither a string text"),
        ("a.jsonl", '{"text": null}\nnull\n{}', "has no text"),
        ("a.csv", "id,body\n1,x\n", "no column text or messages in its first line"),
        ("a.csv", 'text\n"unclosed', "not a table that can be read, from row 1"),
        ("a.csv", "messages\n{not json\n", "not a table that can be read"),
        ("a.jsonl", '{"text": "x"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", '["x"]', "line 1 is str, expected an object"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.jsonl", '{"messages": [{"content": "x"}]}', "row 1 has messages without a role"),
        ("a.jsonl", '{"messages": ["x"]}', "row 1 has messages without a role"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}', "the model has no chat template"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 at byte 0"),
        ("a.txt", b"text\0\0", "NUL"),
    ],
)
def test_a_file_that_is_no_data_is_refused(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_texts(written(tmp_path / name, content))
    assert name in str(caught.value.path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_texts(str(tmp_path / "missing.jsonl"))
    with pytest.raises(InputError, match="is a folder"):
        load_texts(str(tmp_path))


@pytest.mark.parametrize("spec", ["hf://", "hf://name", "hf://a/b/c/d", "hf://../x", "hf://a/b:c:d e"])
def test_a_name_of_no_data_set_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match="does not name a data set"):
        load_texts(spec)


def test_offline_nothing_is_fetched() -> None:
    with pytest.raises(NetworkError, match="would have to be fetched"):
        load_texts("hf://org/name/config@main:train", offline=True)


def test_tokens_are_the_models_own(tmp_path: Path) -> None:
    """With BOS as the tokenizer has it, and the end-of-text token as separator where it has none."""
    llama = open_source(str(TINY))
    tokens = model_tokens(llama, 2048)
    assert (tokens.bos, tokens.separator, tokens.chat) == (1, 2, False)
    assert tokens.encode("") == []
    qwen = model_tokens(open_source(str(build("qwen3", tmp_path))), 400)
    assert qwen.bos is None
    texts = load_texts(written(tmp_path / "a.txt", "The quick brown fox. " * 40))
    samples = select_samples(texts, tokens, seqlen=16)
    assert set(samples.tokens[:, 0]) == {1}
    stream = [1, *tokens.encode(texts.documents[0])]
    assert samples.tokens[1, 1:].tolist() == stream[17:32]


HALF = "\ud83d"  # of a surrogate pair
EMOJI = "\ud83d\ude42"  # both halves, which JSON may spell one by one


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_documents_are_unicode_whatever_json_spells(name: str, tmp_path: Path) -> None:
    rows = [{"text": f"a{HALF}b {EMOJI}"}, {"messages": [{"role": "user", "content": f"c{HALF}"}]}]
    content = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
    template = ChatTemplate(f"{HALF}{{{{ messages[0].content }}}}{{{{ '-\\udc00' }}}}", {})
    texts = load_texts(written(tmp_path / name, content), template)
    assert texts.documents == ("a\ufffdb 🙂", "\ufffdc\ufffd-\ufffd")


def test_parquet_with_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    values = pyarrow.array([b"hello", b"a\xff"]).cast(pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), len(values), values.buffers())  # not checked
    parquet.write_table(pyarrow.table({"text": text}), path)
    with pytest.raises(InputError, match="not parquet that can be read"):
        load_texts(str(path))


def test_rows_without_text_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = '{"text": "One."}\n{"text": null}\nnull\n{"messages": null, "text": null, "id": 3}\n{"text": "Two."}'
    texts = load_texts(written(tmp_path / "a.jsonl", rows))
    assert (texts.documents, texts.skipped) == (("One.", "Two."), 3)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_are_read_as_columns(name: str, mark: str, tmp_path: Path) -> None:
    table = [["id", "text"], ["1", '"One, ""two""\nthree."'], ["2", ""], ["3", "Four."]]
    texts = load_texts(written(tmp_path / name, "\n".join(mark.join(row) for row in table)))
    assert (texts.documents, texts.skipped) == (('One, "two"\nthree.', "Four."), 1)


@pytest.mark.parametrize(("name", "content"), [("a.gguf", b"GGUF\3\0"), ("a.txt", b"GGUF\3\0"), ("a.dat", b"\2\0\0\0")])
def test_an_importance_matrix_is_known(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an importance matrix") as caught:
        load_texts(written(tmp_path / name, content))
    assert f"--imatrix {tmp_path / name}" in (caught.value.hint or "")


def test_names_of_columns_stay_private(tmp_path: Path) -> None:
    for content in ('{"my secret": 1}', '{"text": 7, "my secret": "x"}'):
        with pytest.raises(InputError) as caught:
            load_texts(written(tmp_path / "a.jsonl", content))
        assert "secret" not in f"{caught.value.message} {caught.value.hint} {caught.value.key}"

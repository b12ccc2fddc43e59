"""Calibration texts: plain text, JSON Lines, parquet, a data set on the Hub. Read whole, kept in memory, never stored.

A row has `text`, or `messages` that the model's chat template turns into text. Everything read is bounded.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from quantkit.calibration.text.hub_data import HUB, hub_file, hub_rows, needs_datasets, require_name
from quantkit.calibration.text.samples import Texts, Tokens
from quantkit.calibration.text.shipped import DEFAULT, data_path, shipped_rows
from quantkit.calibration.text.templates import ChatTemplate, Conversation, read_chat_template, render
from quantkit.errors import InputError, UsageError
from quantkit.events import Sink, ignore
from quantkit.extras import require_installed
from quantkit.families.describe import find_family
from quantkit.families.layers import DECODING
from quantkit.jsontext import utf8
from quantkit.source import Checkpoint
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.untrusted import encodable, read_bounded, shown

MAX_BYTES = 1 << 30  # of a file
MAX_ROWS = 10_000_000
CSV_SEPARATORS = {".csv": ",", ".tsv": "\t"}
IMATRIX_SUFFIXES = (".dat", ".imatrix")
COLUMNS = ("messages", "text")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"

Row = Mapping[str, Any]


def model_tokens(checkpoint: Checkpoint, rows: int) -> Tokens:
    """How a checkpoint's own tokenizer writes text; `rows` is the number of embedding rows.

    A token that the tokenizer puts before every text is its BOS; a model without one gets its end-of-text token
    between documents. Raises InputError when there is no tokenizer.
    """
    source = open_source_tokenizer(checkpoint.read_file, checkpoint.config)
    plain = source.encoder(add_special=False)
    ids, whole = plain("a"), source.encoder()("a")
    start = next(n for n in range(len(whole) + 1) if whole[n : n + len(ids)] == ids)
    end = checkpoint.config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    separator = end if isinstance(end, int) and not isinstance(end, bool) and 0 <= end < rows else None
    chat = read_chat_template(checkpoint) is not None
    return Tokens(plain, rows, whole[0] if start else None, separator, chat, _middle(checkpoint, separator))


def _middle(checkpoint: Checkpoint, end: int | None) -> tuple[int, int] | None:
    """What ends a source and begins a target, as transformers puts them; None for a model that has no decoder beside
    an encoder."""
    hparams = find_family(checkpoint.config).family.hparams(checkpoint.config)
    if not hparams.number(DECODING):
        return None
    start = int(hparams.required("decoder_start_token_id"))
    return start if end is None else end, start


def require_readable(specs: Iterable[str]) -> None:
    """Raise UnsupportedError, before anything is opened, for data that an optional package reads which is missing,
    UsageError for a name that no data set can have."""
    for spec in specs:
        if spec.startswith(HUB):
            require_name(spec)
        for reads, package in ((needs_datasets(spec), "datasets"), (spec.endswith(PARQUET), "pyarrow")):
            if reads:
                require_installed(f"reading {shown(spec)}", [package], instead="give plain text or JSON Lines")
                break


def load_texts(spec: str, template: ChatTemplate | None = None, *, offline: bool = False, emit: Sink = ignore) -> Texts:
    """The documents of a file, of a data set on the Hub (`hub_data`), or, for "default", of the shipped text.

    ".jsonl", ".ndjson" and ".json" hold one object per line (or one array of objects), ".parquet", ".csv" and ".tsv"
    columns, anything else is one document of UTF-8 text. Rows with `messages` are rendered with `template`; rows whose
    text is null are left out and counted. Raises InputError for a
    file that is missing, empty, of the wrong kind or without these columns, or messages without a template;
    UnsupportedError where an optional package is missing; NetworkError when the Hub cannot be reached.
    """
    found = hub_file(spec, MAX_BYTES, offline=offline, emit=emit) if spec.startswith(HUB) else None
    if found is None and spec.startswith(HUB):
        streamed = hub_rows(spec, offline=offline)
        digest = hashlib.sha256()
        for row in streamed.rows:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode())
        return _texts(streamed.rows, streamed.name, digest.hexdigest(), template)
    path = found.path if found else data_path(spec)
    name = found.name if found else utf8(path.name).decode()  # goes into records and files
    if name == DEFAULT and spec != DEFAULT:
        name = f"./{DEFAULT}"  # somebody's own text
    data = read_bounded(path, MAX_BYTES)
    _require_text(path, data)
    sha256 = hashlib.sha256(data).hexdigest()
    if spec == DEFAULT:
        return _texts(shipped_rows(data, chat=template is not None), DEFAULT, sha256, template)
    if path.suffix == PARQUET:
        return _texts(_parquet_rows(path, data), name, sha256, template)
    text = _decoded(path, data)
    if path.suffix in JSON_SUFFIXES:
        return _texts(list(_json_rows(path, text)), name, sha256, template)
    if path.suffix in CSV_SEPARATORS:
        return _texts(_csv_rows(path, text), name, sha256, template)
    if not text.strip():
        _empty(path.name)
    return Texts((text,), name, sha256)


def _require_text(path: Path, data: bytes) -> None:
    """Raise UsageError for an importance matrix, which another option takes."""
    if data[:4] == b"GGUF" or path.suffix in IMATRIX_SUFFIXES:
        what = f"{shown(path)} is no text: an importance matrix by its name or its start"
        raise UsageError(what, key="calib", hint=f"for GGUF recipes: --imatrix {shown(path)}")


def _texts(rows: Sequence[Row], name: str, sha256: str, template: ChatTemplate | None) -> Texts:
    documents: list[str | None] = []
    conversations: list[Conversation] = []
    skipped = 0
    for number, row in enumerate(rows):
        if not row or (all(row.get(key) is None for key in COLUMNS) and any(key in row for key in COLUMNS)):
            skipped += 1
            continue
        found = _document(row, number, name)
        documents.append(found if isinstance(found, str) else None)
        if not isinstance(found, str):
            conversations.append(found)
    if conversations and template is None:
        message = f"{shown(name)} has messages, and the model has no chat template to write them with"
        raise InputError(message, path=name, key="messages", hint='give rendered text in a "text" column')
    rendered = iter(render(template, conversations) if conversations and template else ())
    whole = [document if document is not None else next(rendered) for document in documents]
    kept = tuple(_unicode(document) for document in whole if document.strip())
    if not kept:
        _empty(name)
    return Texts(kept, name, sha256, rendered=bool(conversations), skipped=skipped)


def _unicode(text: str) -> str:
    """Text as UTF-8 can hold it: JSON and templates can spell halves of surrogate pairs, no tokenizer reads them."""
    return text if encodable(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _document(row: Row, number: int, name: str) -> str | Conversation:
    """A row's messages, or its text."""
    messages, text = row.get("messages"), row.get("text")
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        if all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in messages):
            return list(messages)
        message = f"{shown(name)}: row {number + 1} has messages without a role"
        raise InputError(message, path=name, key="messages", hint='a message is {"role": "user", "content": "..."}')
    if isinstance(text, str):
        return text
    # the names of columns are the user's own: they stay out of terminals and logs
    raise InputError(
        f"{shown(name)}: row {number + 1} has neither a string text nor a list of messages",
        path=name,
        key="text",
        hint='name the column "text", or give conversations as "messages"',
    )


def _csv_rows(path: Path, text: str) -> list[Row]:
    """The rows of a table whose first line names its columns; messages are JSON."""
    rows: list[Row] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=CSV_SEPARATORS[path.suffix], strict=True)
        names = [str(name).strip() for name in reader.fieldnames or ()]
        columns = [name for name in COLUMNS if name in names]
        if not columns:
            message = f"{shown(path)} has no column text or messages in its first line"
            raise InputError(message, path=str(path), key="text", hint="name the column, or give the text as .txt")
        reader.fieldnames = names
        for row in reader:
            found = {name: row[name] for name in columns if row.get(name)}
            if "messages" in found:
                found["messages"] = json.loads(found["messages"])
            rows.append(found or dict.fromkeys(columns))
    except (csv.Error, ValueError, RecursionError) as error:
        message = f"{shown(path)} is not a table that can be read, from row {len(rows) + 1} on"
        raise InputError(message, path=str(path), hint="give JSON Lines: one object per line") from error
    return rows


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    """The objects of JSON Lines, or of one array."""
    lines: Iterable[tuple[int, str]] = enumerate(text.split("\n"), 1)
    if text.lstrip()[:1] == "[":
        lines = [(1, text)]
    for number, line in lines:
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"{shown(path)}: line {number} is not JSON: {shown(str(error), 100)}"
            raise InputError(message, path=str(path), hint="one JSON object per line") from error
        for row in found if isinstance(found, list) else [found]:
            if row is None:
                yield {}
                continue
            if not isinstance(row, dict):
                message = f"{shown(path)}: line {number} is {type(row).__name__}, expected an object"
                raise InputError(message, path=str(path), hint='one {"text": "..."} per line')
            yield row


def _decoded(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{shown(path)} is not UTF-8 at byte {error.start:,}"
        raise InputError(message, path=str(path), hint="give plain text, JSON Lines or parquet") from error
    if "\0" in text:
        raise InputError(f"{shown(path)} holds NUL characters: it is not text", path=str(path))
    return text


def _parquet_rows(path: Path, data: bytes) -> list[Row]:
    require_readable([str(path)])
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        names = file.schema_arrow.names
        columns = [name for name in COLUMNS if name in names]
        if not columns:
            message = f"{shown(path)} has {len(names):,} columns, none of them text or messages"
            raise InputError(message, path=str(path), key="text", hint='name the column "text"')
        if file.metadata.num_rows > MAX_ROWS:
            raise InputError(f"{shown(path)} has {file.metadata.num_rows:,} rows, at most {MAX_ROWS:,} are read")
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(group).total_byte_size for group in groups) > MAX_BYTES:
            raise InputError(f"{shown(path)} unpacks to more than {MAX_BYTES:,} bytes", path=str(path))
        rows: list[Row] = file.read(columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        message = f"{shown(path)} is not parquet that can be read: {shown(str(error), 100)}"
        raise InputError(message, path=str(path), hint="the file is damaged: fetch it again") from error
    return rows


def _empty(name: str) -> NoReturn:
    raise InputError(f"{shown(name)} has no text", path=name, hint="give a file that holds text")

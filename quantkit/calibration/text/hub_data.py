"""Text of data sets on the Hub: a file of one, or the rows of a split. Their code is never run.

    hf://datasets/org/name[@revision][:FILE]          a file, fetched by huggingface_hub; without a name the only one
    hf://[datasets/]org/name[/config][@revision][:split]     rows, streamed by the package datasets

A revision is resolved once, and the commit goes into records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import NetworkError, UsageError
from quantkit.events import Sink
from quantkit.extras import is_installed, require_installed
from quantkit.records import record
from quantkit.untrusted import listed, shown

HUB = "hf://"
HUB_TEXT_BYTES = 64 << 20  # text taken from the start of a split
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".txt", ".md", ".text")
ALONE = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".txt")  # of a file that needs no name
NO_TEXT = re.compile(r"(.*/)?(dataset_infos?|dataset_dict|state|metadata|README|\..*)\.[a-z]+")
REPO = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)"
REVISION = r"(?:@(?P<revision>\w[\w./-]{0,199}))?"
FILE = r"(?:[\w(][^/\0:]{0,249}/){0,8}[\w(][^/\0:]{0,249}"
ONE_FILE = re.compile(rf"hf://datasets/{REPO}{REVISION}(?::(?P<file>{FILE}))?")
SPLIT = re.compile(
    rf"hf://(?:datasets/)?{REPO}(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w.-]+))?(?::(?P<split>[\w.\[\]%:-]+))?"
)
HINT = "hf://datasets/org/name[@revision]:FILE.jsonl, or hf://org/name[/config][@revision][:split]"

Row = Mapping[str, Any]


@record
class HubFile:
    """A file of a data set, as it lies in the cache; `name` is what records call it, with its commit."""

    path: Path
    name: str


def needs_datasets(spec: str) -> bool:
    """Whether only the package datasets reads what `spec` names, as far as can be told without asking the Hub."""
    match = ONE_FILE.fullmatch(spec)
    return spec.startswith(HUB) and (match is None or (match["file"] is not None and not _is_file(match["file"])))


def require_name(spec: str) -> None:
    """Raise UsageError for a name behind hf:// that no data set can have."""
    if ONE_FILE.fullmatch(spec) is None:
        _split(spec)


def _split(spec: str) -> re.Match[str]:
    match = SPLIT.fullmatch(spec)
    if match is None:
        raise UsageError(f"{shown(spec)} does not name a data set", key="data", hint=f"write {HINT}")
    return match


def _is_file(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def hub_file(spec: str, limit: int, *, offline: bool, emit: Sink) -> HubFile | None:
    """The file that `spec` names, fetched; None where it names rows of a split.

    Without a name it is the only file of text; of several the package datasets reads the split "train" where it is
    installed. Raises UsageError for unknown names and for several files, with their names.
    """
    match = ONE_FILE.fullmatch(spec)
    if match is None or needs_datasets(spec) or ".." in spec:
        return None
    from quantkit.source.dataset import fetch_file, look_at
    from quantkit.source.hub_access import Hub  # huggingface_hub: only for repositories

    hub = Hub(offline=offline)
    found = look_at(match["repo"], match["revision"], hub)
    name = match["file"]
    if name is None:
        if found.sizes is None:
            raise NetworkError(f"{shown(spec)}: offline nobody knows its files", hint=f"name one: {shown(spec)}:FILE")
        texts = sorted(each for each in found.sizes if each.lower().endswith(ALONE) and not NO_TEXT.fullmatch(each))
        if len(texts) != 1:
            if texts and is_installed("datasets"):
                return None
            what = f"holds {len(texts)} files of text: {listed(texts, 8)}" if texts else "holds no file of text"
            hint = f"name one: {shown(spec)}:{shown(texts[0])}" if texts else f"write {HINT}"
            raise UsageError(f"the data set {shown(match['repo'])} {what}", key="data", hint=hint)
        [name] = texts
    path = fetch_file(found, name, limit, hub, emit)
    return HubFile(path, f"hf://datasets/{found.repo}@{found.commit}:{name}")


@record
class HubRows:
    """Rows of a split, and what records call them, with their commit."""

    rows: list[Row]
    name: str


def hub_rows(spec: str, *, offline: bool) -> HubRows:
    """Rows from the start of a split until their text has HUB_TEXT_BYTES characters. Runs none of its code.

    Raises UsageError for a name that is none, UnsupportedError without the package datasets, NetworkError.
    """
    match = _split(spec)
    if offline:
        raise NetworkError(f"{shown(spec)} would have to be fetched", hint="fetch it before, and give the file")
    require_installed(f"reading {shown(spec)}", ["datasets"], instead="give plain text or JSON Lines")
    from quantkit.source.dataset import look_at
    from quantkit.source.hub_access import Hub

    commit = look_at(match["repo"], match["revision"], Hub()).commit
    config, split = match["config"], match["split"] or "train"
    rows = list(_streamed(spec, match["repo"], config, split, commit))
    return HubRows(rows, f"hf://{match['repo']}{f'/{config}' if config else ''}@{commit}:{split}")


def _streamed(spec: str, repo: str, config: str | None, split: str, commit: str) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_dataset(repo, config, split=split, revision=commit, streaming=True)
        taken = 0
        for row in found:
            if taken >= HUB_TEXT_BYTES:
                return
            kept = {key: row[key] for key in ("messages", "text") if row.get(key) is not None} or dict(row)
            taken += len(json.dumps(kept, default=str))
            yield kept
    except ValueError as error:  # no such configuration or split
        raise UsageError(f"{shown(spec)}: {shown(str(error), 200)}", key="data", hint="name one of those") from error
    except (datasets.exceptions.DatasetsError, OSError) as error:  # connection errors are OSErrors
        message = f"{shown(spec)} cannot be read: {shown(str(error), 200)}"
        raise NetworkError(message, hint="check the name and the connection; gated data needs HF_TOKEN") from error

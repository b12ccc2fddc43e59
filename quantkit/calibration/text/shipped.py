"""The text that ships with the project, for everybody without text of their own: `--calib default`.

`default.jsonl` was written for this project and has its licence. A line is a document: `domain`, and `text` or
`messages`; domains alternate, so that any number of windows from anywhere in it is a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT = "default"
FILE = Path(__file__).with_name("default.jsonl")


def data_path(name: str) -> Path:
    """The file that a name of data means: the shipped text for "default", else the file of that name.

    A file named "default" in the current folder is "./default".
    """
    return FILE if name == DEFAULT else Path(name)


def shipped_rows(data: bytes, *, chat: bool) -> list[Mapping[str, Any]]:
    """The rows of the shipped text. Without a chat template (`chat`) conversations are written as plain dialogue."""
    rows = [json.loads(line) for line in data.decode().split("\n") if line]
    return rows if chat else [{"text": row["text"] if "text" in row else _dialogue(row["messages"])} for row in rows]


def conversations() -> frozenset[int]:
    """The numbers of the documents of the shipped text that are conversations."""
    rows = shipped_rows(FILE.read_bytes(), chat=True)
    return frozenset(number for number, row in enumerate(rows) if "messages" in row)


def _dialogue(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)

"""Seeded mutations that know the shape of what they damage: JSON trees, protocol buffers, GGUF headers, text, bytes.

Bytes alone seldom get past a parser's first check. A mutator here keeps the outside intact and damages a value, a key,
a count or a name inside, with values that have broken readers before.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutator = Callable[[random.Random], bytes]

NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    31,
    32,
    64,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**53,
    2**62,
    2**63,
    2**64 - 1,
]
HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    -0.0,
    1e308,
    -1,
    *NUMBERS,
    -(2**63),
    10**30,
    10**400,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    "a",
    "0",
    "-1",
    "1e999",
    "\0",
    "\x1b[31m",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "é",
    "中",
    "🙂",
    "²",
    "٣",
    "{}",
    "{0}",
    "%s",
    "../x",
    "/",
    "a/b",
    "a" * 300,
    "a" * 5000,
    "model.layers.0",
    "weight",
    [],
    {},
    [[]],
    [{}],
    {"": {}},
    [0] * 50,
    ["a", "a"],
    [None],
    {"a": 1, "b": [2]},
    [[[[[[[[[[]]]]]]]]]],
]
TEXT = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b'"',
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b",",
    b":",
    b"=",
    b"#",
    b"-",
    b"---",
    b"|",
    b"*",
    b"?",
    b"+",
    b".",
    b"..",
    b"/",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\x1b[31m",
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"-1",
    b"NaN",
    b"Infinity",
    b"9" * 40,
    b"0x" + b"f" * 40,
    b"null",
    b"true",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"<<: ",
    b"&a ",
    b"*a",
    b"!!int ",
    b"[" * 50,
    b"a." * 20,
    b'"""',
    b"'''",
    b"(?=",
    b"\\1",
    b"a" * 500,
]


def damaged(raw: bytes, rng: random.Random, head: int | None = None) -> bytes:
    """Bytes changed, cut, doubled, moved and overwritten, in the first `head` of them."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        limit = min(len(out), head or len(out))
        if not limit:
            break
        at, length = rng.randrange(limit), rng.choice((1, 2, 4, 8, 16, 64))
        match rng.randrange(9):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2 | 3:
                width = rng.choice((1, 2, 4, 8))
                out[at : at + width] = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
            case 4:
                del out[at : at + length]
            case 5:
                out[at:at] = out[at : at + length]
            case 6:
                del out[at:]
            case 7:
                out[at:at] = rng.choice(TEXT)
            case _:
                other = rng.randrange(limit)
                out[at : at + length] = out[other : other + length]
    return bytes(out)


def clone(tree: Any) -> Any:
    """A copy of a JSON tree. Several times as fast as copy.deepcopy."""
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items()}
    return [clone(value) for value in tree] if isinstance(tree, list) else tree


def fresh(node: Any) -> Any:
    """A copy of this node alone: it holds what the node holds."""
    return dict(node) if isinstance(node, dict) else list(node)


def place(top: Any, rng: random.Random, copied: bool = False) -> tuple[Any, Any] | None:
    """(container, key) of a node below the top, None for an empty one. Each way down is as likely as its neighbours:
    of a hundred tokens and ten settings, the settings are not forgotten. With `copied` the containers on the way are
    replaced by copies, so that the node may be changed.
    """
    node, way = top, None
    while node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        way, below = (node, key), node[key]
        if not isinstance(below, dict | list) or rng.random() < 0.25:
            break
        if copied:
            below = node[key] = fresh(below)
        node = below
    return way


def changed(tree: Any, rng: random.Random) -> Any:
    """A copy of a JSON tree with one to three nodes replaced, removed, renamed, doubled, swapped or wrapped.

    It shares with the tree what is not changed.
    """
    if not isinstance(tree, dict | list):
        return rng.choice(HOSTILE)
    out = fresh(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found, other = place(out, rng, copied=True), place(out, rng)
        if found is None or other is None:
            return rng.choice(HOSTILE)
        node, key = found
        match rng.randrange(8):
            case 0 | 1 | 2:
                node[key] = rng.choice(HOSTILE)
            case 3:
                del node[key]
            case 4 if isinstance(node, dict):
                node[str(rng.choice(HOSTILE))] = node.pop(key)
            case 4 | 5:
                node[key] = clone(other[0][other[1]])  # it may hold the node
            case 6 if isinstance(node, list):
                node[key:key] = [node[key]] * rng.choice((1, 3, 40))
            case 6:
                node[f"{key}{rng.randrange(10)}"] = node[key]
            case _:
                node[key] = [node[key]] if rng.random() < 0.5 else {"a": node[key]}
    return out


def spelled(tree: Any, rng: random.Random) -> bytes:
    """A JSON tree as bytes: escaped or not, now and then with a key twice or with damaged bytes."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.7, separators=rng.choice(((",", ":"), None)))
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        at = raw.find(b"{") + 1
        raw = raw[:at] + raw[at : raw.find(b",", at) + 1] + raw[at:]
    return damaged(raw, rng) if rng.random() < 0.15 else raw


def json_of(*trees: Any) -> Mutator:
    """Mutations of one of these JSON trees."""
    return lambda rng: spelled(changed(rng.choice(trees), rng), rng)


def text_of(*seeds: bytes) -> Mutator:
    """Lines and words of a text removed, doubled, moved, replaced by hostile ones; or bytes damaged."""

    def mutate(rng: random.Random) -> bytes:
        raw = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 4))):
            glue = rng.choice((b"\n", b" ", b'"', b",", b"="))
            parts = raw.split(glue)
            at = rng.randrange(len(parts))
            match rng.randrange(6):
                case 0:
                    parts[at] = rng.choice(TEXT)
                case 1:
                    del parts[at]
                case 2:
                    parts[at:at] = [parts[at]] * rng.choice((1, 2, 30))
                case 3:
                    parts[at], parts[-1] = parts[-1], parts[at]
                case 4:
                    parts[at] += rng.choice(TEXT)
                case _:
                    raw = damaged(glue.join(parts), rng)
                    continue
            raw = glue.join(parts)
        return raw

    return mutate


def bytes_of(*seeds: bytes, head: int | None = None) -> Mutator:
    return lambda rng: damaged(rng.choice(seeds), rng, head)


def safetensors_of(header: dict[str, Any], data: bytes) -> Mutator:
    """A header changed as JSON behind a length that is right, now and then wrong; data sometimes cut."""

    def mutate(rng: random.Random) -> bytes:
        raw = spelled(changed(header, rng) if rng.random() < 0.9 else header, rng)
        length = len(raw) if rng.random() < 0.9 else rng.choice(NUMBERS)
        body = data if rng.random() < 0.8 else data[: rng.randrange(len(data) + 1)]
        return (length % 2**64).to_bytes(8, "little") + raw + body

    return mutate


def chunk(number: int, wire: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer."""
    head = varint(number << 3 | wire)
    if isinstance(value, int):
        return head + varint(value)
    return head + (varint(len(value)) if wire == 2 else b"") + value


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


Fields = list[tuple[int, int, Any]]  # number, wire type, a number, bytes, or fields


def proto_of(fields: Fields) -> Mutator:
    """Fields of nested messages removed, doubled, renumbered, retyped, or with other values."""

    def encode(message: Fields) -> bytes:
        return b"".join(chunk(n, w, encode(v) if isinstance(v, list) else v) for n, w, v in message)

    def mutate(rng: random.Random) -> bytes:
        message = copy.deepcopy(fields)
        for _ in range(rng.choice((1, 1, 2, 3))):
            inner = message
            while True:
                if not inner:
                    break
                at = rng.randrange(len(inner))
                number, wire, value = inner[at]
                if isinstance(value, list) and rng.random() < 0.6:
                    inner = value
                    continue
                match rng.randrange(6):
                    case 0:
                        del inner[at]
                    case 1:
                        inner[at:at] = [copy.deepcopy(inner[at])] * rng.choice((1, 2, 20))
                    case 2:
                        inner[at] = (rng.choice((0, 1, 2, 3, 4, 5, 15, 16, 536870911)), wire, value)
                    case 3:
                        inner[at] = (number, rng.randrange(8), value if isinstance(value, int) else b"\1\2\3\4")
                    case 4 if isinstance(value, int):
                        inner[at] = (number, wire, rng.choice(NUMBERS))
                    case _:
                        raw = encode(value) if isinstance(value, list) else value
                        inner[at] = (number, 2, damaged(raw, rng) if isinstance(raw, bytes) else rng.choice(TEXT))
                break
        raw = encode(message)
        return damaged(raw, rng) if rng.random() < 0.1 else raw

    return mutate


def string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


KIND_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def gguf_of(
    entries: list[tuple[bytes, int, Any]], tensors: list[tuple[bytes, list[int], int, int]], harm: float = 1.0
) -> Mutator:
    """A GGUF file: entries are (key, kind, value) with kind 8 for strings and (kind, values) for arrays (kind 9).

    Keys, kinds, counts, lengths, shapes, types and offsets are changed one at a time; what is not stays consistent.
    `harm` scales how many: a file of many entries should not lose something of each.
    """

    def wrong(value: int, rng: random.Random, odds: float = 0.04) -> int:
        return rng.choice(NUMBERS) if rng.random() < odds * harm else value

    def scalar(kind: int, value: Any, rng: random.Random) -> bytes:
        if kind == 8:
            return string(value if rng.random() > 0.05 * harm else rng.choice(TEXT), wrong(len(value), rng, 0.01))
        if kind in (6, 12):
            return struct.pack(
                "<f" if kind == 6 else "<d",
                rng.choice((value, float("nan"), float("inf"), -1.0)) if rng.random() < harm else value,
            )
        size = KIND_BYTES.get(kind, 4)
        return (wrong(int(value), rng) % (1 << 8 * size)).to_bytes(size, "little")

    def item(key: bytes, kind: int, value: Any, rng: random.Random) -> bytes:
        key = key if rng.random() > 0.03 * harm else rng.choice((*TEXT, b"general.alignment", b"split.count"))
        said = kind if rng.random() > 0.03 * harm else rng.choice((*range(14), 2**31))
        out = string(key, wrong(len(key), rng, 0.01)) + struct.pack("<I", said % 2**32)
        if kind != 9:
            return out + scalar(kind, value, rng)
        of, values = value
        of_said = of if rng.random() > 0.04 * harm else rng.randrange(14)
        counted = struct.pack("<IQ", of_said, wrong(len(values), rng) % 2**64)
        return out + counted + b"".join(scalar(of, each, rng) for each in values)

    def mutate(rng: random.Random) -> bytes:
        chosen = [e for e in entries if rng.random() > 0.05 * harm] + (
            [rng.choice(entries)] if rng.random() < 0.05 * harm else []
        )
        infos = [t for t in tensors if rng.random() > 0.03 * harm] + (
            [rng.choice(tensors)] if rng.random() < 0.03 * harm else []
        )
        count, number = wrong(len(infos), rng, 0.02), wrong(len(chosen), rng, 0.02)
        out = b"GGUF" + struct.pack("<IQQ", wrong(3, rng, 0.02) % 2**32, count % 2**64, number % 2**64)
        out += b"".join(item(*entry, rng) for entry in chosen)
        offset = 0
        for name, dims, type_id, nbytes in infos:
            name = name if rng.random() > 0.03 * harm else rng.choice(TEXT)
            sizes = [wrong(size, rng) % 2**64 for size in dims]
            out += string(name) + struct.pack("<I", wrong(len(sizes), rng, 0.02) % 2**32)
            out += b"".join(struct.pack("<Q", size) for size in sizes)
            out += struct.pack("<IQ", wrong(type_id, rng, 0.03) % 2**32, wrong(offset, rng, 0.03) % 2**64)
            offset += -(-nbytes // 32) * 32
        out = out.ljust(-(-len(out) // 32) * 32, b"\0") + bytes(offset)
        return (
            damaged(out, rng)
            if rng.random() < 0.05 * harm
            else out[: len(out) if rng.random() > 0.03 * harm else rng.randrange(len(out))]
        )

    return mutate

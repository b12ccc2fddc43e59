"""Statistics as a file: a safetensors container that any reader of that format can look into.

__metadata__      format = "quantkit-statistics 2", statistics = JSON: model, data records, sites, linears, parts
<site>/<n>/squares, magnitudes    F64 (cols)           n counts the parts of the site
<site>/<n>/peaks                  F32 (cols)
<site>/<n>/gram/<first row>       F32 (rows, cols - first row), the upper triangle in bands
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import BAND, Gram, Linear, Part, Site, Statistics, Sums, merge
from quantkit.calibration.text.samples import DataRecord
from quantkit.errors import InputError
from quantkit.families.model import Rows
from quantkit.formats.safetensors.reader import SafetensorsEntry, SafetensorsFile, parse_safetensors
from quantkit.records import record
from quantkit.untrusted import InputFile, open_input, parse_json_object, shown, unique_pairs

FORMAT = "quantkit-statistics 2"
MAX_COUNT = 1 << 53  # of tokens, rows, columns
MAX_VALUES = 1 << 24  # JSON values of the metadata: window numbers, sites, linears
NUMPY: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}


@record
class Encoded:
    """A file to be written: its exact size, and its bytes in pieces."""

    nbytes: int
    pieces: Iterator[bytes]


@record
class _Stored:
    """A tensor of the file to be written; `read` gives its bytes when their turn comes."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], bytes]


def encode_statistics(statistics: Statistics) -> Encoded:
    """Statistics as the bytes of a file. Equal statistics give equal bytes; nothing is held twice."""
    grams = {site: tuple(part.sums.gram is not None for part in parts) for site, parts in statistics.parts.items()}
    return _encoded(_facts(statistics, grams), dict(_tensors(statistics)))


def encode_files(files: Sequence[StatisticsFile]) -> Encoded:
    """Statistics of different sites, each in a file, as one: the bytes that `encode_statistics` gives of all at once.

    Sums are copied from file to file and never held together. Raises InputError when they are of different models.
    """
    owners = {site: file for file in files for site in file.facts.sites}
    assert len(owners) == sum(len(file.facts.sites) for file in files), "a site is in two files"
    facts = merge([file.facts for file in files])
    grams = {site: owners[site].grams[site] for site in facts.sites}
    stored = {}
    for site in sorted(facts.sites):
        file, cols = owners[site], facts.sites[site].cols
        for number, gram in enumerate(grams[site]):
            for name, (dtype, shape) in _layout(f"{site}/{number}/", cols, gram=gram).items():
                entry = file.entry(name, shape, dtype)
                stored[name] = _Stored(dtype, shape, partial(_copied, file.source, entry))
    return _encoded(_facts(facts, grams), stored)


def _copied(source: InputFile, entry: SafetensorsEntry) -> bytes:
    return source.read(entry.start, entry.stop).tobytes()


def _encoded(facts: str, stored: Mapping[str, _Stored]) -> Encoded:
    tensors = dict(sorted(stored.items(), key=lambda item: item[1].dtype != "F64"))  # keeps alignment
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, "statistics": facts}}
    offset = 0
    for name, tensor in tensors.items():
        stop = offset + prod(tensor.shape) * NUMPY[tensor.dtype].itemsize
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    header = json.dumps(entries, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return Encoded(8 + len(header) + offset, _pieces(header, tensors.values()))


def _pieces(header: bytes, tensors: Iterable[_Stored]) -> Iterator[bytes]:
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors:
        yield tensor.read()


def _layout(prefix: str, cols: int, *, gram: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of a part, in the order of the file."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{prefix}squares": ("F64", (cols,)),
        f"{prefix}magnitudes": ("F64", (cols,)),
        f"{prefix}peaks": ("F32", (cols,)),
    }
    for start in range(0, cols, BAND) if gram else ():
        found[f"{prefix}gram/{start}"] = ("F32", (min(BAND, cols - start), cols - start))
    return found


def _tensors(statistics: Statistics) -> Iterator[tuple[str, _Stored]]:
    for site in sorted(statistics.sites):
        for number, part in enumerate(statistics.parts[site]):
            sums = part.sums
            values = (sums.squares, sums.magnitudes, sums.peaks, *(sums.gram.bands if sums.gram else ()))
            layout = _layout(f"{site}/{number}/", statistics.sites[site].cols, gram=sums.gram is not None)
            for (name, (dtype, shape)), tensor in zip(layout.items(), values, strict=True):
                yield name, _Stored(dtype, shape, partial(_bytes, tensor, NUMPY[dtype]))


def _bytes(tensor: Tensor, dtype: np.dtype[Any]) -> bytes:
    return tensor.cpu().contiguous().numpy().astype(dtype, copy=False).tobytes()


def _facts(statistics: Statistics, grams: Mapping[str, tuple[bool, ...]]) -> str:
    facts = {
        "model": statistics.model,
        "data": {plan: asdict(record) for plan, record in sorted(statistics.data.items())},
        "sites": [
            {
                **asdict(statistics.sites[name]),
                "parts": [_part_facts(*pair) for pair in zip(statistics.parts[name], grams[name], strict=True)],
            }
            for name in sorted(statistics.sites)
        ],
        "linears": [_linear_facts(statistics.linears[name]) for name in sorted(statistics.linears)],
    }
    return json.dumps(facts, sort_keys=True)


def _linear_facts(linear: Linear) -> dict[str, Any]:
    """`columns` are named where rows are columns of the source alone: the first, the one after the last, the step."""
    facts, columns = asdict(linear), linear.source.columns
    source = {key: value for key, value in facts["source"].items() if key != "columns"}
    said = {} if columns is None else {"columns": [columns.start, columns.stop, columns.step]}
    return {**facts, "source": {**source, **said}}


def _part_facts(part: Part, gram: bool) -> dict[str, Any]:
    return {"plan": part.plan, "start": part.start, "stop": part.stop, "tokens": part.sums.tokens, "gram": gram}


@record
class StatisticsFile:
    """An open file whose header has been read and checked; sums are read when asked for."""

    source: InputFile
    header: SafetensorsFile
    facts: Statistics
    grams: Mapping[str, tuple[bool, ...]]

    def read(self, sites: Sequence[str] | None = None, *, gram: bool = True) -> Statistics:
        """The statistics of the given sites, None for all; without `gram` no Gram matrices, which are most of a file.

        Raises InputError for sums that cannot be sums.
        """
        chosen = sorted(self.facts.sites) if sites is None else sorted(sites)
        parts = {
            name: tuple(self._part(name, n, has and gram) for n, has in enumerate(self.grams[name])) for name in chosen
        }
        found = {name: self.facts.sites[name] for name in chosen}
        linears = {linear: self.facts.linears[linear] for site in found.values() for linear in site.linears}
        return Statistics(self.facts.model, found, linears, parts, self.facts.data)

    def entry(self, name: str, shape: tuple[int, ...], dtype: str) -> SafetensorsEntry:
        """Where a tensor lies. Raises InputError where it is missing or of another type or shape."""
        entry = self.header.tensors.get(name)
        if entry is None or entry.dtype != dtype or entry.shape != shape:
            found = "nothing" if entry is None else f"{entry.dtype} {list(entry.shape)}"
            _fail(self.source, f"{shown(name)} is {found}, expected {dtype} {list(shape)}", name)
        return entry

    def close(self) -> None:
        self.source.close()

    def _part(self, site: str, number: int, gram: bool) -> Part:
        part, prefix = self.facts.parts[site][number], f"{site}/{number}/"
        layout = _layout(prefix, self.facts.sites[site].cols, gram=gram)
        squares, magnitudes, peaks, *bands = (
            self._tensor(name, shape, dtype) for name, (dtype, shape) in layout.items()
        )
        sums = Sums(part.sums.tokens, squares, magnitudes, peaks, Gram(tuple(bands)) if gram else None)
        for name, values in (("squares", squares), ("magnitudes", magnitudes), ("peaks", peaks)):
            if not bool((values.isfinite() & (values >= 0)).all()):
                _fail(self.source, f"{prefix}{name} has values that are not finite or negative", site)
        return Part(part.plan, part.start, part.stop, sums)

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        entry = self.entry(name, shape, dtype)
        raw = self.source.read(entry.start, entry.stop).view(NUMPY[dtype])
        assert raw.size == prod(shape)
        return torch.from_numpy(raw.astype(raw.dtype.newbyteorder("="), copy=False).reshape(shape))


def open_statistics(path: Path) -> StatisticsFile:
    """Open a file of statistics; reads the header only. Raises InputError for another or a damaged file."""
    source = open_input(path)
    try:
        header = parse_safetensors(source)
        if header.metadata.get("format") != FORMAT:
            _fail(source, f"this is not a file of statistics of this version ({FORMAT})")
        text = header.metadata.get("statistics", "").encode("utf-8", "surrogatepass")
        raw = parse_json_object(text, path, values=MAX_VALUES, pairs=unique_pairs)
        facts, grams = _parsed(raw, source, header)
    except InputError:
        source.close()
        raise
    return StatisticsFile(source, header, facts, grams)


def _parsed(
    raw: Mapping[str, Any], source: InputFile, header: SafetensorsFile
) -> tuple[Statistics, dict[str, tuple[bool, ...]]]:
    """The metadata as types; the sums of its parts are empty. Every size is that of a tensor which is there."""
    try:
        data = {plan: _record(found) for plan, found in raw["data"].items()}
        linears = {found["name"]: _linear(found) for found in raw["linears"]}
        sites, parts, grams = {}, {}, {}
        for entry in raw["sites"]:
            site = Site(_word(entry["name"]), tuple(map(_word, entry["linears"])), _count(entry["cols"]))
            sites[site.name] = site
            parts[site.name] = tuple(_empty_part(found, data) for found in entry["parts"])
            grams[site.name] = tuple(_flag(found["gram"]) for found in entry["parts"])
        model = _word(raw["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{shown(source.path)}: its facts are damaged ({type(error).__name__}: {shown(str(error), 80)})"
        raise InputError(message, path=str(source.path), hint="calibrate again") from error
    for site in sites.values():
        members = [linears.get(name) for name in site.linears]
        if site.name not in site.linears or not all(linear and linear.cols == site.cols for linear in members):
            _fail(source, f"its site {shown(site.name)} and its linears do not belong together")
        for number, _ in enumerate(parts[site.name]):
            entry = header.tensors.get(f"{site.name}/{number}/squares")
            if entry is None or entry.shape != (site.cols,):
                _fail(source, f"it holds no sums of {site.cols:,} columns for {shown(site.name)}")
    if len(linears) != len(raw["linears"]) or len(sites) != len(raw["sites"]):
        _fail(source, "two of its sites or linears have one name")
    if any(record.digest != plan for plan, record in data.items()) or not all(parts.values()):
        _fail(source, "its sites and data records do not belong together")
    return Statistics(model, sites, linears, parts, data), grams


def _linear(found: Mapping[str, Any]) -> Linear:
    said = found["source"]
    columns = None
    if "columns" in said:
        first, last, *step = said["columns"]
        columns = range(_count(first, least=0), _count(last), *map(_count, step))
    rows = Rows(_word(said["tensor"]), _count(said["start"], least=0), _count(said["stop"]), columns)
    if set(said) - {"columns"} != {"tensor", "start", "stop"} or rows.rows != _count(found["rows"]):
        raise ValueError("the rows of a linear")
    return Linear(_word(found["name"]), rows, found["rows"], _count(found["cols"]))


def _record(found: Mapping[str, Any]) -> DataRecord:
    lists = {name: tuple(_word(text) for text in found.get(name, ())) for name in ("parts", "seen")}
    record = DataRecord(**{**found, "ids": tuple(_count(number, least=0) for number in found["ids"]), **lists})
    texts, flags = (record.sha256, record.token_sha256), (record.chat, record.rendered)
    counts = (
        record.seqlen, record.windows, record.documents, record.repeated_documents, record.median_tokens,
        record.tokens, record.repeated, record.bos or 0,
    )  # fmt: skip
    for text in texts:
        _word(text)
    for flag in flags:
        _flag(flag)
    for count in counts:
        _count(count, least=0)
    if type(record.seed) is not int or not isinstance(record.name, str):  # names of files need not be printable
        raise ValueError("the seed or the name of a data record")
    return record


def _empty_part(found: Mapping[str, Any], data: Mapping[str, DataRecord]) -> Part:
    nothing = torch.zeros(0)
    plan, start, stop = _word(found["plan"]), _count(found["start"], least=0), _count(found["stop"])
    if not start < stop <= len(data[plan].ids):
        raise ValueError(f"samples {start} to {stop} of {len(data[plan].ids)}")
    return Part(plan, start, stop, Sums(_count(found["tokens"], least=0), nothing, nothing, nothing))


def _word(value: object) -> str:
    """`value` if it is text. Raises ValueError."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r:.80} is no name")
    return value


def _count(value: object, *, least: int = 1) -> int:
    """`value` if it can be a count. Raises ValueError."""
    if type(value) is not int or not least <= value < MAX_COUNT:
        raise ValueError(f"{value!r:.80} is no count")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.80} is neither true nor false")
    return value


def _fail(source: InputFile, why: str, tensor: str | None = None) -> NoReturn:
    message = f"{shown(source.path)}: {why}"
    raise InputError(message, path=str(source.path), tensor=tensor, hint="calibrate again")

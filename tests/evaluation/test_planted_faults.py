"""Files that hold other weights than the original's are told from files that are rounded, whatever the text shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from checkpoints import build
from commands import TINY, quantkit

from quantkit.evaluation.artifacts import opened_artifact
from quantkit.evaluation.corpus import Cutting, read_corpus
from quantkit.evaluation.figures import Report, summarize
from quantkit.evaluation.gates import Subject, judge, parse_gates
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.formats.gguf.file import read_gguf
from quantkit.qtypes import base
from quantkit.source import open_source

RECIPES = (
    "q8_0", "q6_k", "q4_0", "q4_k_m", "q3_k_s", "q2_k", "iq4_xs", "iq4_nl", "q4_1", "q5_0", "q5_1", "q4_k_s", "q5_k_s",
    "q5_k_m", "q3_k_m", "q3_k_l", "iq3_s", "bf16", "f16", "f32",
)  # fmt: skip
Matrix = np.ndarray


def doubled(values: Matrix) -> Matrix:
    return 2 * values


def two_rows_swapped(values: Matrix) -> Matrix:
    order = np.arange(len(values))
    order[[3, 77]] = 77, 3
    return values[order]


def other_rope(values: Matrix) -> Matrix:
    """Pairs of a head that lie side by side, where the file has them half a head apart, or the other way round."""
    return values.reshape(-1, 2, 32, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def an_expert_zeroed(values: Matrix) -> Matrix:
    return np.concatenate([values[:-96], np.zeros_like(values[-96:])])


def transposed(values: Matrix) -> Matrix:
    return np.ascontiguousarray(values.T)


def one_step_off(values: Matrix) -> Matrix:
    blocks = values.reshape(-1, 32)
    return (blocks + np.abs(blocks).max(axis=1, keepdims=True) / 8).reshape(values.shape)


def outliers_clipped(values: Matrix) -> Matrix:
    return np.clip(values, -values.std(), values.std())


def stale(values: Matrix) -> Matrix:
    return np.roll(values, 1, axis=0)


PLANTED: dict[Callable[[Matrix], Matrix], str] = {
    doubled: "blk.1.ffn_down.weight",
    two_rows_swapped: "blk.2.attn_output.weight",
    other_rope: "blk.0.attn_q.weight",
    an_expert_zeroed: "blk.1.ffn_up.weight",
    transposed: "blk.3.attn_output.weight",
    one_step_off: "blk.2.ffn_gate.weight",
    outliers_clipped: "blk.3.attn_v.weight",
    stale: "token_embd.weight",
}
SOURCE_NAMES = {
    "ffn_down": "mlp.down_proj", "attn_output": "self_attn.o_proj", "attn_q": "self_attn.q_proj",
    "ffn_up": "mlp.up_proj", "ffn_gate": "mlp.gate_proj", "attn_v": "self_attn.v_proj",
}  # fmt: skip


def plant(file: Path, out: Path, tensor: str, change: Callable[[Matrix], Matrix]) -> Path:
    """A copy of a GGUF file, one of whose tensors holds other numbers in the same type."""
    shutil.copy(file, out)
    [found] = [t for t in read_gguf(file).tensors if t.name == tensor]
    qtype, cols = base.get(found.qtype), found.shape[1]
    raw = np.fromfile(file, np.uint8)
    rows = raw[found.offset : found.offset + found.shape[0] * qtype.row_bytes(cols)].reshape(found.shape[0], -1)
    changed = change(qtype.decode(rows, cols).reshape(found.shape)).astype(np.float32)
    raw[found.offset :][: rows.size] = qtype.encode(changed, None).reshape(-1)
    out.write_bytes(raw.tobytes())
    return out


def expected(tensor: str) -> str:
    if tensor.startswith("token_embd"):
        return "model.embed_tokens.weight"
    _, block, kind, _ = tensor.split(".")
    return f"model.layers.{block}.{SOURCE_NAMES[kind]}.weight"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Healthy files by recipe, and planted ones by what was done to them, all beside one run of the original."""
    folder = tmp_path_factory.mktemp("planted")
    assert quantkit("convert", TINY, "--to", ",".join(RECIPES), "-o", folder, "--no-verify", "-q").status == 0
    files = {r: folder / f"docs-llama-tiny-{r.upper()}.gguf" for r in RECIPES}
    for change, tensor in PLANTED.items():
        files[change.__name__] = plant(files["q4_0"], folder / f"{change.__name__}.gguf", tensor, change)
    (folder / "t.jsonl").write_text(json.dumps({"text": (TINY / "config.json").read_text()}))
    source = open_source(str(TINY))
    corpus = read_corpus(source, (str(folder / "t.jsonl"),), Cutting(window=64, tokens=256))
    with ExitStack() as stack:
        sides = [stack.enter_context(opened_artifact(file, source)).side for file in files.values()]
        found = measure(Side("original", source), sides, corpus, threads=2)
    return {name: summarize(scores, corpus) for name, scores in zip(files, found, strict=True)}


def holds(report: Report) -> bool:
    [verdict] = judge(parse_gates(["default"]), Subject(1, 1, report))
    return verdict.ok


@pytest.mark.parametrize("change", PLANTED, ids=lambda change: change.__name__)
def test_the_default_gate_finds_what_was_planted(
    reports: dict[str, Report], change: Callable[[Matrix], Matrix]
) -> None:
    report = reports[change.__name__]
    assert not holds(report)
    found = {error.tensor.split(" ")[0] for error in report.damaged}
    tied = {"lm_head.weight"} if change is stale else set()
    assert found == {expected(PLANTED[change])} | tied


@pytest.mark.parametrize(
    ("family", "tensor", "rows"),
    [("llama-biases", "blk.1.attn_q.bias", slice(None)), ("qwen2-moe", "blk.1.ffn_up_exps.weight", slice(1, 2))],
)
def test_a_missing_bias_and_a_missing_expert_are_found(family: str, tensor: str, rows: slice, tmp_path: Path) -> None:
    """Of models that have such: all of a bias, and one matrix of a stack, are zeros. The file as it was holds."""
    source_folder = build(family, tmp_path / family)
    file = tmp_path / "m.gguf"
    assert quantkit("convert", source_folder, "--to", "q8_0", "-o", file, "--no-verify", "-q").status == 0
    planted = tmp_path / "planted.gguf"
    raw = np.fromfile(file, np.uint8)
    [found] = [t for t in read_gguf(file).tensors if t.name == tensor]
    nbytes = np.prod(found.shape[:-1], dtype=int) * base.get(found.qtype).row_bytes(found.shape[-1])
    raw[found.offset : found.offset + nbytes].reshape(found.shape[0], -1)[rows] = 0
    planted.write_bytes(raw.tobytes())
    text = Path(__file__).parents[2] / "LICENSE"
    few = ("--against", source_folder, "--data", text, "--window", 64, "--tokens", 128, "--gate", "default")
    assert quantkit("eval", file, *few).status == 0
    judged = quantkit("eval", planted, *few, "--json")
    assert judged.status == 8
    wrong = [w["tensor"] for w in json.loads(judged.stdout.splitlines()[0])["artifacts"][0]["weights"]["damaged"]]
    assert len(wrong) == 1, wrong


def test_there_are_twenty_sound_files() -> None:
    assert len(set(RECIPES)) == 20


@pytest.mark.parametrize("recipe", RECIPES)
def test_sound_files_raise_no_alarm(reports: dict[str, Report], recipe: str) -> None:
    assert holds(reports[recipe])
    assert reports[recipe].weights is not None
    assert len(reports[recipe].weights) == 39  # 4 x 9 in blocks, the norm, the head, the embedding

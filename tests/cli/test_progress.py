"""Progress on terminals of every width, and where there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from quantkit.cli import render
from quantkit.cli.progress import Live, _Bar, bar_lines, clock, short, shortened
from quantkit.cli.render import Talk
from quantkit.events import BlockProgress, RunStarted, StageFinished, StageStarted, TensorProgress

LONG = "blk.121.ffn_gate_exps_and_a_long_name_of_a_tensor.weight"


def shown(width: int, tensor: str, done: int = 12_100_000_000) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = _Bar(console=console)
    task = bar.add_task("quantize", total=16_100_000_000, completed=done, tensor=tensor, place="218/291")
    bar.tasks[0].start_time = bar.get_time() - 30
    with console.capture() as captured:
        for line in bar_lines(bar.tasks[task], width):
            console.print(line)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("tensor", ["blk.3.ffn_down.weight q6_k", LONG + " iq4_xs", "層" * 20, ""])
def test_everything_is_there_at_every_width(width: int, tensor: str) -> None:
    lines = shown(width, tensor)
    assert len(lines) == (1 if width >= 110 else 2)
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    text = " ".join(lines)
    for figure in ("quantize", "75%", "12.1GB/16.1GB", "403MB/s", "ETA 0:10", "218/291", "mem "):
        assert figure in text, lines
    if tensor.isascii():
        assert tensor[:6] in text
        assert tensor[-6:] in text


def test_narrow_terminals_get_no_more_columns_than_they_have() -> None:
    for width in (20, 30, 40, 50):
        assert all(len(line.rstrip()) <= width for line in shown(width, LONG))


def test_something_moves_from_the_first_event_on_and_blocks_move_the_bar() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    live = Live(console.file)
    live._console = console
    live.event(RunStarted("convert", "1"))
    assert live._progress is not None
    live.event(StageStarted("quantize", 400))
    seen = []
    for block in range(4):
        for samples in (16, 32, 16, 32):
            live.event(BlockProgress("quantize", f"model.layers.{block}", block + 1, 4, samples, 32))
            seen.append(live._progress.tasks[0].completed)
        live.event(TensorProgress("quantize", f"model.layers.{block}", "int4", block + 1, 4, 100 * (block + 1), 400))
    assert seen[:4] == [0, 0, 0, 0]
    assert seen[4:8] == [125, 150, 175, 200]
    assert seen == sorted(seen)
    live.event(StageFinished("quantize", 1.0))
    live.stop()
    assert live._progress is None


def test_a_line_now_and_then_where_no_line_can_be_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    talk = Talk(quiet=False, verbose=False, plain=True, stream=stream)
    talk.event(StageStarted("quantize", 1000))
    for second in range(1, 101):
        now[0] = float(second)
        if second % 2:
            talk.event(TensorProgress("quantize", "blk.0.x", "q4_k", second, 100, 10 * second, 1000))
        else:
            talk.event(BlockProgress("quantize", "model.layers.0", 1, 4, second, 100))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(re.search(r"/100|100 samples", line) and "peak" in line for line in lines)
    assert "\x1b" not in stream.getvalue()


def test_no_time_left_is_guessed_before_anything_is_done() -> None:
    first = render.progress_line(TensorProgress("quantize", "token_embd.weight", "q8_0", 0, 30, 0, 269_030_000), 240.0)
    assert "after 4:00" in first
    assert "ETA" not in first
    later = render.progress_line(TensorProgress("quantize", "x", "q8_0", 1, 30, 1_000_000, 4_000_000), 60.0)
    assert "ETA 3:00" in later


def test_figures_are_short() -> None:
    assert [short(n) for n in (0, 999, 1000, 99_940, 99_960, 12_100_000_000)] == [
        "0B", "999B", "1.0kB", "99.9kB", "100kB", "12.1GB",
    ]  # fmt: skip
    assert [clock(s) for s in (0, 9, 59, 61, 3700)] == ["0:00", "0:09", "0:59", "1:01", "1:01:40"]
    assert shortened("blk.0.attn_q.weight", 9) == "blk.…ight"

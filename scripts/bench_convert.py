"""Time and memory of quantkit against llama.cpp's two programs, from the same checkpoint, in the same run.

Makes a synthetic Llama checkpoint (276 M parameters: hidden 2048, FFN 8192, 4 layers, vocabulary 8000, BF16), then
runs, alternating, `quantkit convert` and `convert_hf_to_gguf.py --outtype bf16` followed by `llama-quantize`, each
as a fresh process on the same cores; floats are what the converter writes alone. Prints medians and the ratio of every
pair of runs.

    python scripts/bench_convert.py --llama-cpp DIR [--recipes q4_k_m,q6_k] [--runs 5] [--memory] [--json]

Beside it the floor: processor time of `cat` and `sha256sum` of the source and of `sha256sum` and a copy with fsync of
the file that was made. And where the processor time of quantkit goes, of one more run (phase_shares.py).

DIR is a llama.cpp source tree with build/bin/llama-quantize. Without it only quantkit is measured. With --memory the
peak resident memory is also taken at eight times the size (a sparse file), for every recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from child import Took, run

REPOSITORY = Path(__file__).parent.parent
TOKENIZER = REPOSITORY / "tests" / "data" / "docs-llama-tiny"
HIDDEN, FFN, LAYERS, VOCAB, HEADS, KV_HEADS = 2048, 8192, 4, 8000, 16, 4
GROWTH = 8
FLOATS = ("bf16", "f16", "f32")  # what the converter writes alone
CHUNK = 1 << 20  # numbers made at once


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the synthetic checkpoint."""
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(layers):
        block = f"model.layers.{i}."
        shapes |= {
            block + "input_layernorm.weight": (HIDDEN,),
            block + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            block + "self_attn.k_proj.weight": (KV_HEADS * head, HIDDEN),
            block + "self_attn.v_proj.weight": (KV_HEADS * head, HIDDEN),
            block + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            block + "post_attention_layernorm.weight": (HIDDEN,),
            block + "mlp.gate_proj.weight": (FFN, HIDDEN),
            block + "mlp.up_proj.weight": (FFN, HIDDEN),
            block + "mlp.down_proj.weight": (HIDDEN, FFN),
        }
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def make_checkpoint(folder: Path, layers: int, *, sparse: bool) -> int:
    """Write the checkpoint: Gaussian weights, or with `sparse` a hole of zeros. Returns the number of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((TOKENIZER / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": layers, "vocab_size": VOCAB}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS}
    config |= {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    header, offset = {}, 0
    for name, shape in tensor_shapes(layers).items():
        nbytes = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            file.truncate(8 + len(text) + offset)
        else:
            for start in range(0, offset // 2, CHUNK):
                values = rng.standard_normal(min(CHUNK, offset // 2 - start), dtype=np.float32) * np.float32(0.02)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return offset // 2


def measure(commands: list[list[str]]) -> Took:
    """Run commands one after the other and add up their times; the peak is the larger one."""
    runs = [run(command) for command in commands]
    return Took(sum(r.seconds for r in runs), sum(r.cpu for r in runs), max(r.peak for r in runs))


def quantkit_command(source: Path, recipe: str, out: Path) -> list[str]:
    quantkit = Path(sys.executable).with_name("quantkit")
    return [str(quantkit), "convert", str(source), "--to", recipe, "-o", str(out), "--quiet"]


def peer_commands(tree: Path, source: Path, recipe: str, work: Path) -> list[list[str]]:
    middle = work / "middle.gguf"
    convert = [sys.executable, str(tree / "convert_hf_to_gguf.py"), str(source), "--outfile", str(middle)]
    if recipe in FLOATS:
        return [[*convert, "--outtype", recipe]]
    quantize = [str(tree / "build/bin/llama-quantize"), str(middle), str(work / "peer.gguf"), recipe.upper()]
    return [[*convert, "--outtype", "bf16"], [*quantize, str(len(os.sched_getaffinity(0)))]]


def floor_commands(source: Path, made: Path, work: Path) -> list[list[str]]:
    """What reading, hashing and writing the same bytes takes without doing anything with them."""
    weights, copy = source / "model.safetensors", work / "copy.gguf"
    sums = [["cat", str(weights)], ["sha256sum", str(weights)], ["sha256sum", str(made)]]
    return [*sums, ["dd", f"if={made}", f"of={copy}", "bs=4M", "conv=fsync"]]


def shares(work: Path, source: Path, recipe: str) -> dict[str, float]:
    """CPU seconds of each phase of one more run, whose timers cost a little."""
    out = work / "shares.gguf"
    command = [sys.executable, str(Path(__file__).with_name("phase_shares.py")), str(source), recipe, str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for leftover in work.glob("shares.*"):
        leftover.unlink()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(work: Path, source: Path, recipe: str, tree: Path | None, runs: int) -> dict[str, object]:
    """Alternate quantkit and the peers `runs` times."""
    ours: list[Took] = []
    theirs: list[Took] = []
    floor: list[Took] = []
    for number in range(runs):
        out = work / f"ours-{number}.gguf"
        ours.append(measure([quantkit_command(source, recipe, out)]))
        floor.append(measure(floor_commands(source, out, work)))
        if tree:
            theirs.append(measure(peer_commands(tree, source, recipe, work)))
            (work / "middle.gguf").unlink()
            (work / "peer.gguf").unlink(missing_ok=True)
        for leftover in work.glob(f"ours-{number}.*"):
            leftover.unlink()
    result: dict[str, object] = {
        "recipe": recipe,
        "seconds": round(statistics.median(r.seconds for r in ours), 2),
        "cpu_seconds": round(statistics.median(r.cpu for r in ours), 2),
        "peak_mb": round(max(r.peak for r in ours) / 1e6, 1),
        "floor_cpu_seconds": round(statistics.median(r.cpu for r in floor), 2),
        "times_floor": round(statistics.median(o.cpu / f.cpu for o, f in zip(ours, floor, strict=True)), 2),
        "shares": shares(work, source, recipe),
    }
    if theirs:
        ratios = sorted(t.seconds / o.seconds for o, t in zip(ours, theirs, strict=True))
        result |= {
            "peer_seconds": round(statistics.median(r.seconds for r in theirs), 2),
            "peer_peak_mb": round(max(r.peak for r in theirs) / 1e6, 1),
            "times_faster": round(statistics.median(ratios), 2),
            "times_faster_min": round(ratios[0], 2),
            "times_faster_max": round(ratios[-1], 2),
        }
    return result


def growth(work: Path, recipe: str) -> dict[str, object]:
    """Peak memory at one and at eight times the size, on sparse sources, without the verify stage's re-reading."""
    peaks = []
    for layers in (LAYERS, LAYERS * GROWTH):
        source = work / f"sparse-{layers}"
        if not source.exists():
            make_checkpoint(source, layers, sparse=True)
        out = work / f"sparse-{layers}.gguf"
        peaks.append(measure([quantkit_command(source, recipe, out)]).peak)
        for leftover in work.glob(f"sparse-{layers}.*"):
            leftover.unlink()
    return {"recipe": recipe, "peak_mb": round(peaks[0] / 1e6, 1), "peak_mb_8x": round(peaks[1] / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--recipes", default="q4_k_m,q6_k,q3_k_m,q8_0,bf16")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help="where to put the files (default: a temporary folder)")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode, both sides
    if options.llama_cpp:
        os.environ["PYTHONPATH"] = str(options.llama_cpp / "gguf-py")
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        weights = make_checkpoint(work / "model", LAYERS, sparse=False)
        measure([quantkit_command(work / "model", "q4_k_m", work / "warm.gguf")])  # compilation cache, page cache
        recipes = options.recipes.split(",")
        results = [compare(work, work / "model", r, options.llama_cpp, options.runs) for r in recipes]
        memory = [growth(work, r) for r in recipes] if options.memory else []
    report = {"weights": weights, "runs": options.runs, "speed": results, "memory": memory}
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{weights / 1e6:.0f} M weights, median of {options.runs} alternating runs")
    for row in (*results, *memory):
        print("  ".join(f"{key} {value}" for key, value in row.items() if key != "shares"))
        print(*(f"  CPU s by phase: {json.dumps(row[key])}\n" for key in ("shares",) if key in row), end="")


if __name__ == "__main__":
    main()

"""KL divergence of GGUF files over whole documents in llama.cpp itself, by its own tool.

    python scripts/bench_perplexity.py MODEL FILE [FILE ...] --llama-cpp DIR --text held-out=H.jsonl [--text ...]
        [--documents 42] [--context 512] [--threads 2]

DIR is a tree of llama.cpp with build/bin/llama-perplexity. The original, converted to F32 here, says what it expects
over the documents of each text, one after the other, in windows of --context tokens; every FILE is compared with that
(`--kl-divergence`). llama.cpp counts the second half of each window, keeps what the original expects as numbers of 16
bits, and rounds what matrices read to 8 bits where these are quantized, which is part of every file's figure. What the
original's own file has is printed first. Errors are the tool's, for tokens as if they were independent; those of ratios
to the first FILE take the two for independent, too, which they are not, and are too large.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from quantkit.calibration.text.data import load_texts

KLD = re.compile(r"^Mean +KLD: +([0-9.eE+-]+) +± +([0-9.eE+-]+)", re.MULTILINE)


def run(tool: Path, file: Path, text: Path, base: Path, options: argparse.Namespace, *more: str) -> str:
    """What llama-perplexity prints."""
    command = [
        tool, "-m", file, "-f", text, "-c", options.context, "-b", options.context, "-t", options.threads,
        "--kl-divergence-base", base, "-ngl", 0, *more,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout + done.stderr


def divergence(printed: str) -> tuple[float, float]:
    """The mean KL divergence and its standard error."""
    found = KLD.search(printed)
    if found is None:
        sys.exit(f"llama-perplexity said nothing of a KL divergence:\n{printed[-2000:]}")
    return float(found[1]), float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--llama-cpp", required=True, type=Path, metavar="DIR")
    parser.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--documents", type=int, default=42)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tool = options.llama_cpp / "build/bin/llama-perplexity"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        original = work / "original.gguf"
        convert = [sys.executable, "-m", "quantkit", "convert", options.model, "--to", "f32", "-o", str(original)]
        subprocess.run([*convert, "--no-verify", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        for name, _, path in (one.partition("=") for one in options.text):
            text, base = work / "text", work / "base"
            documents = load_texts(path).documents[: options.documents]
            text.write_text("\n\n".join(documents), encoding="utf-8")
            run(tool, original, text, base, options)
            first: tuple[float, float] | None = None
            for file in (original, *options.files):
                mean, error = divergence(run(tool, file, text, base, options, "--kl-divergence"))
                line = f"{name:14} {file.name:44} {mean:.6f} ± {error:.6f}"
                if file is not original:
                    first = first or (mean, error)
                    ratio = mean / first[0]
                    line += f"  {ratio:.3f} ± {ratio * ((error / mean) ** 2 + (first[1] / first[0]) ** 2) ** 0.5:.3f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()

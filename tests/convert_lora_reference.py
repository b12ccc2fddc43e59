"""Run llama.cpp's convert_lora_to_gguf.py over many adapters in one process.

Reads a JSON list of [adapter, base, output, outtype] from standard input.
"""

from __future__ import annotations

import json
import runpy
import sys

from reference import REFERENCE

sys.path[:0] = [str(REFERENCE), str(REFERENCE / "gguf-py")]

if __name__ == "__main__":
    for adapter, base, output, outtype in json.load(sys.stdin):
        sys.argv = ["convert_lora_to_gguf.py", adapter, "--base", base, "--outfile", output, "--outtype", outtype]
        runpy.run_path(str(REFERENCE / "convert_lora_to_gguf.py"), run_name="__main__")

"""The steps of action.yml: `python action.py keys|commit|convert`.

Inputs come in variables (QK_SOURCE and so on) and are never read by a shell; lists are one a line. Outputs go into the
file that GITHUB_OUTPUT names. Needs nothing but Python; `commit` and `convert` need quantkit to be installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEEDS_TEXT = ("--calib", "--max-kld", "--target-size", "--target-bpw")
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[([^\]]*)\])?(\s*(?:[<>=!~@;].*)?)")
EXTRAS = re.compile(r"[a-z][a-z0-9-]*(,[a-z][a-z0-9-]*)*")


def given(name: str) -> str:
    return os.environ.get(f"QK_{name}", "").strip()


def lines(name: str) -> list[str]:
    """The values of an input that has one a line."""
    return [line.strip() for line in given(name).splitlines() if line.strip()]


def put(outputs: Mapping[str, str]) -> None:
    """Write outputs; a delimiter that nobody knows keeps a value from being taken for others."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        for name, value in outputs.items():
            end = f"end-{uuid.uuid4()}"
            file.write(f"{name}<<{end}\n{value}\n{end}\n")


def keys() -> int:
    """What pip installs, the folder of its cache, and its key: requirements and Python decide what it downloads."""
    extras = given("EXTRAS").replace(" ", "")
    if extras and not EXTRAS.fullmatch(extras):
        print("::error::extras: names with commas, such as calibrate,llamacpp")
        return 2
    names = dict.fromkeys(filter(None, extras.split(",")))
    options = [line.partition("=")[0] for line in lines("ARGS")]
    if given("GATES") or any(option in NEEDS_TEXT for option in options):
        names["calibrate"] = None
    requirement = with_extras(given("PACKAGE") or str(ROOT), names)
    facts = [requirement, platform.python_version(), platform.machine()]
    if not given("PACKAGE"):
        facts.append((ROOT / "pyproject.toml").read_text("utf-8"))
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    put({"requirement": requirement, "pip": key, "pip-cache": pip_cache()})
    return 0


def pip_cache() -> str:
    """The folder in which pip keeps downloads, which each system has elsewhere; "" where pip keeps none."""
    asked = [sys.executable, "-m", "pip", "cache", "dir", "--disable-pip-version-check"]
    done = subprocess.run(asked, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def with_extras(package: str, names: Mapping[str, None]) -> str:
    """What pip is asked for, with more extras: behind the name of a package, and in front of its version; else, behind
    a path."""
    named = NAMED.fullmatch(package)
    if named is None:
        return package + (f"[{','.join(names)}]" if names else "")
    extras = dict.fromkeys(filter(None, (named[2] or "").replace(" ", "").split(","))) | dict(names)
    return named[1] + (f"[{','.join(extras)}]" if extras else "") + named[3]


def commit() -> int:
    """The key of the cache of a model: the commit that its revision is now. None for a folder or a file."""
    spec = given("SOURCE").removeprefix("hf://")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^/:]+))?(?:[/:].*)?", spec)
    if match is None or Path(given("SOURCE")).exists():
        put({"key": ""})
        return 0
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = HfApi().model_info(match[1], revision=match[2], timeout=30).sha or ""
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # convert says what is wrong with it
        print(f"::warning::no cache for the model: {type(error).__name__}")
        found = ""
    put({"key": f"{match[1].replace('/', '--')}-{found}" if found else ""})
    return 0


def convert() -> int:
    """Run quantkit convert, with its own exit status; outputs are of what it made, also where a recipe failed."""
    recipes = [name for line in lines("RECIPES") for name in line.split(",") if name.strip()]
    out = given("OUT") or "quantkit-out"
    command = [sys.executable, "-m", "quantkit", "convert", "--json", "--plain", "--out", out]
    for option, values in (("--to", recipes), ("--gate", lines("GATES")), ("--eval-data", lines("EVAL_DATA"))):
        command += [word for value in values for word in (option, value.strip())]
    done = subprocess.run([*command, *lines("ARGS"), "--", given("SOURCE")], stdout=subprocess.PIPE, check=False)
    summary = Path(os.environ.get("RUNNER_TEMP") or given("OUT") or ".") / f"quantkit-{uuid.uuid4().hex[:8]}.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    summary.write_bytes(done.stdout)
    said = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines() if line.startswith("{")]
    made = next((each["artifacts"] for each in said if "artifacts" in each), [])
    files = [file for artifact in made for file in artifact["files"]]
    first = {}
    if made:  # of a checkpoint the folder, which is what loaders are given
        path, manifest = files[0]["path"], made[0]["manifest"]
        artifact = path if path.endswith(".gguf") else str(Path(manifest).parent)
        first = {"artifact": artifact, "sha256": files[0]["sha256"], "manifest": manifest}
    put({**first, "artifacts": "\n".join(file["path"] for file in files), "summary": str(summary)})
    tell(made)
    return done.returncode


def tell(made: list[dict[str, object]]) -> None:
    """Say on the page of the run what was made; the verdict of gates quantkit writes there itself."""
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if not page or not made:
        return
    rows = ["| artifact | recipe | size | SHA-256 |", "|---|---|---:|---|"]
    for artifact in made:
        for file in artifact["files"]:  # type: ignore[attr-defined]
            name = re.sub(r"[|<>`\[\]\\*_]", lambda match: f"&#{ord(match[0])};", file["name"])
            rows.append(f"| {name} | {artifact['recipe']} | {file['bytes']:,} | `{file['sha256']}` |")
    with Path(page).open("a", encoding="utf-8") as file:
        file.write("\n".join(["", *rows, "", ""]))


if __name__ == "__main__":
    sys.exit({"keys": keys, "commit": commit, "convert": convert}[sys.argv[1]]())

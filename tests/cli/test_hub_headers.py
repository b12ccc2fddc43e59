"""Commands that plan from a repository of the Hub: as from the folder, and without its weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apart import run_apart
from commands import TINY, Outcome, quantkit
from hub_server import HubState, serve

from quantkit.source.ranges import FIRST_BYTES

REPO, COMMIT = "docs/llama-tiny", "d" * 40
SPEC = f"hf://{REPO}"
TOKEN = "hf_CanaryCanaryCanaryCanary"
WEIGHTS = "model.safetensors"
FILE = "tiny-Q8_0.gguf"
OF_GGUF = f"{SPEC}@main:sub/{FILE}"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubState]:
    files = {path.name: path.read_bytes() for path in TINY.iterdir() if path.is_file()}
    out = tmp_path_factory.mktemp("gguf")
    assert quantkit("convert", TINY, "--to", "q8_0", "-o", out / FILE, "--no-verify").status == 0
    files |= {f"sub/{FILE}": (out / FILE).read_bytes()}
    large = frozenset({WEIGHTS, f"sub/{FILE}"})
    state = HubState(REPO, {COMMIT: files}, {"main": COMMIT}, large=large, token=TOKEN)
    with serve(state) as found:
        yield found


@pytest.fixture(scope="module")
def done(state: HubState, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("hub")
    lines = [
        ["plan", SPEC, "--to", "q4_k_m,fp8", "--json"],
        ["inspect", SPEC, "--json"],
        ["recommend", SPEC, "--memory", "24GB", "--json"],
        ["convert", SPEC, "--to", "q8_0", "--dry-run", "-o", folder / "out", "--json"],
        ["tune", SPEC, "--to", "q8_0", "--dry-run", "--json"],
        ["plan", SPEC, "--offline"],
        ["inspect", OF_GGUF, "--json", "--quiet"],
        ["plan", OF_GGUF, "--to", "q4_0", "--json", "--allow-requantize"],
    ]
    outcomes = run_apart(lines, state.endpoint, folder / "home", HF_TOKEN=TOKEN)
    return {
        " ".join(map(str, line[:1] + (line[2:3] if line[1] == SPEC else ["gguf"]))): outcome
        for line, outcome in zip(lines, outcomes, strict=True)
    }


def test_plans_are_those_of_the_folder(done: dict[str, Outcome]) -> None:
    here = quantkit("plan", TINY, "--to", "q4_k_m,fp8", "--json").json
    there = done["plan --to"].json
    assert there["source"] | {"commit": None} == {"kind": "hf", "name": "llama-tiny", "repo": REPO, "commit": None}
    assert there["source"]["commit"] == COMMIT
    for one, other in zip(here["plans"], there["plans"], strict=True):
        assert [t["bytes"] for t in one["tensors"]] == [t["bytes"] for t in other["tensors"]]
        assert one["size"]["weights"] == other["size"]["weights"]
    assert done["inspect --json"].json["tensors"] == quantkit("inspect", TINY, "--json").json["tensors"]
    assert (
        done["recommend --memory"].json["original"]
        == quantkit("recommend", TINY, "--memory", "24GB", "--json").json["original"]
    )
    assert done["convert --to"].json["plans"]
    assert done["tune --to"].json["steps"]


def test_one_gguf_file(done: dict[str, Outcome], state: HubState) -> None:
    looked = done["inspect gguf"].json
    assert looked["kind"] == "gguf"
    assert looked["origin"]["commit"] == COMMIT
    assert len(looked["tensors"]) == len(done["plan gguf"].json["plans"][0]["tensors"])
    assert done["plan gguf"].json["source"] == {"kind": "gguf", "name": "tiny-Q8_0", "repo": REPO, "commit": COMMIT}
    assert state.sent[f"sub/{FILE}"] == 2 * FIRST_BYTES


def test_no_weights_were_fetched(
    done: dict[str, Outcome], state: HubState, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = len(state.commits[COMMIT][WEIGHTS])
    commands = 5
    assert state.sent[WEIGHTS] <= commands * FIRST_BYTES < size
    assert not [p for p in tmp_path_factory.getbasetemp().rglob(WEIGHTS) if REPO.replace("/", "--") in str(p)]


def test_offline_says_what_is_missing(done: dict[str, Outcome]) -> None:
    outcome = done["plan --offline"]
    assert outcome.status == 9
    assert f"1 of 1 file is missing: {WEIGHTS}" in outcome.stderr
    assert "run once without --offline" in outcome.stderr


def test_the_token_is_never_shown(done: dict[str, Outcome]) -> None:
    for outcome in done.values():
        assert TOKEN not in outcome.stdout + outcome.stderr
        assert "secret-signature" not in outcome.stdout + outcome.stderr

"""plan --fit: memory by size and by device, and the largest recipe that fits."""

from __future__ import annotations

import json

import pytest
from commands import TINY, quantkit

from quantkit.errors import UsageError
from quantkit.report.devices import CARDS, MACS, memory_for

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("24GB", 24 * 10**9), ("24 GiB", 24 * GIB), ("rtx4090", 24 * GIB), ("RTX 4090", 24 * GIB), ("4090", 24 * GIB),
        ("NVIDIA GeForce RTX 4090", 24 * GIB), ("RTX 3060 12GB", 12 * GIB), ("rtx-3060-8gb", 8 * GIB),
        ("rtx4060ti 16G", 16 * GIB), ("A100 80GB", 80 * GIB), ("a100-40gb", 40 * GIB), ("H100", 80 * GIB),
        ("RX 7900 XTX", 24 * GIB), ("m2-16gb", 16 * GIB * 2 // 3), ("Apple M2 Max 64GB", 48 * GIB),
        ("m4 max 128 GB", 96 * GIB), ("L40S", 48 * GIB),
    ],
)  # fmt: skip
def test_what_a_memory_is(text: str, nbytes: int) -> None:
    assert memory_for(text) == nbytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("24", '"24GB"'), ("rtx3060", "rtx3060-12gb"), ("m2", "m2-16gb"), ("a100", "a100-80gb"),
        ("rtx4095", "rtx4090"), ("rtx4090-48gb", "rtx4090-24gb"), ("toaster", "size"), ("", "size"), ("GB", "size"),
    ],
)  # fmt: skip
def test_what_it_is_not(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        memory_for(text)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_every_device_has_a_memory() -> None:
    for name, sizes in {**CARDS, **MACS}.items():
        assert list(sizes) == sorted(set(sizes))
        for size in sizes:
            assert size * GIB // 2 < memory_for(f"{name}-{size}gb") <= size * GIB


def test_the_largest_that_fits_is_chosen() -> None:
    outcome = quantkit("plan", TINY, "--fit", "3MB", "--ctx", 64, "--json")
    assert outcome.status == 0, outcome.stderr
    [plan] = outcome.json["plans"]
    assert plan["serving"]["fits"]
    assert plan["serving"]["bytes"] <= 3 * 10**6
    tried = outcome.json["fit"]
    assert [t["bytes"] for t in tried] == sorted((t["bytes"] for t in tried), reverse=True)
    first = next(t for t in tried if t["fits"])
    assert first["recipe"] == plan["recipe"]
    assert first["bytes"] == plan["serving"]["bytes"]
    # the cache counts: with a longer context a smaller recipe
    longer = quantkit("plan", TINY, "--fit", "3MB", "--ctx", 256, "--json").json["plans"][0]
    assert longer["serving"]["weight_bytes"] < plan["serving"]["weight_bytes"]
    # everything fits: not more bits than there are
    assert quantkit("plan", TINY, "--fit", "24GB", "--json").json["plans"][0]["recipe"] in ("bf16", "f16")


@pytest.mark.parametrize("options", [["--fit", "1MB"], ["--to", "q8_0,q4_0", "--fit", "2MB"]])
@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_fits(options: list[str], as_json: bool) -> None:
    outcome = quantkit("plan", TINY, *options, *(["--json"] if as_json else []))
    assert outcome.status == 5
    assert "error[resource]" in outcome.stderr
    if as_json:
        assert json.loads(outcome.stdout)["error"]["exit"] == 5


def test_options_of_a_recipe_need_a_recipe() -> None:
    assert quantkit("plan", TINY, "--fit", "24GB", "--pure").status == 2


def test_consumers_choose_among_checkpoints_too() -> None:
    tried = quantkit("plan", TINY, "--fit", "24GB", "--for", "vllm", "--json").json["fit"]
    assert {"fp8", "q4_k_m"} <= {t["recipe"] for t in tried}

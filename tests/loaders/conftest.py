"""How the libraries under test are run: on the CPU, offline, and with gptqmodel's regular expressions stood in for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

# Before any of the libraries is imported: they read these once.
os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # gptqmodel has its kernels compiled otherwise, for a minute each
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
sys.path.append(str(Path(__file__).parent / "stand_ins"))

import torch
from artifacts import make_artifact
from cases import Case
from expected import decoded
from loaders import examine

torch.set_num_threads(1)  # the tests run in two processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-scheme", action="store_true", help="load every family in every scheme, not in one: seven minutes"
    )


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The artifact of a recipe, and of options besides, written when it is first asked for."""
    return cache(lambda recipe, *options: make_artifact(recipe, tmp_path_factory.mktemp("artifact"), *options))


@pytest.fixture(scope="session")
def case(artifact: Callable[..., Path]) -> Callable[..., Case]:
    """The case of a recipe, and of options besides, loaded when it is first asked for."""

    def load(*recipe_and_options: str) -> Case:
        folder = artifact(*recipe_and_options)
        return Case(folder, decoded(folder), examine(folder))

    return cache(load)

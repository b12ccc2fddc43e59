"""Every architecture that is another's under a new name, or inside another model: the reference's file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import checkpoints
import family_table
import pytest
from alias_table import ALIASES
from commands import quantkit
from test_family_table import require_same

from quantkit.errors import InputError
from quantkit.families.describe import find_family
from quantkit.families.towers import find_tower, unknown_part
from quantkit.families.wrapped import WRAPPED

NAMES = pytest.mark.parametrize("name", ALIASES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aliases")
    for name, entry in ALIASES.items():
        family_table.write(entry, folder / name)
    return folder


@pytest.fixture(scope="module")
def reference(root: Path) -> Callable[[str], Path]:
    """What llama.cpp's converter makes of a checkpoint, in the type that it finds there."""
    files = {name: root / f"{name}.reference.gguf" for name in ALIASES}
    jobs = [[str(root / n), str(p), "auto", checkpoints.PRE if ALIASES[n].bpe else None] for n, p in files.items()]
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return files.__getitem__


@pytest.mark.reference
@NAMES
def test_the_file_is_that_of_the_reference(
    name: str, root: Path, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    out, config = tmp_path / "out.gguf", json.loads((root / name / "config.json").read_text())
    chosen = ["--pre", checkpoints.PRE] if ALIASES[name].bpe else []
    chosen += ["--mmproj", "none"] if find_tower(config) else []
    ran = quantkit("convert", root / name, "--to", "bf16", "-o", out, *chosen, "--no-verify")
    assert ran.status == 0, ran.stderr
    require_same(ALIASES[name], reference(name), out)
    assert ("the text model alone is written" in ran.stderr) is (unknown_part(config) is not None)


def test_every_model_around_a_language_model_has_a_row(root: Path) -> None:
    """What is left out of each is told, too."""
    configs = [json.loads((root / name / "config.json").read_text()) for name in ALIASES]
    assert set(WRAPPED) <= {config["architectures"][0] for config in configs}
    for config in configs:
        if config["architectures"][0] in WRAPPED:
            assert unknown_part(config) or find_tower(config)
            assert find_family(config).family.unserved


@pytest.mark.parametrize("said", [[16, 8], [16, 8, 9], [16, 24, -8], "16 8 8", 32])
def test_sections_that_are_not_of_its_rotations_are_refused(said: object, root: Path) -> None:
    config = json.loads((root / "ling-3-vl" / "config.json").read_text())
    config["text_config"]["mrope_section"] = said
    with pytest.raises(InputError, match=r"mrope_section.*together half of qk_rope_head_dim"):
        find_family(config).family.hparams(config)

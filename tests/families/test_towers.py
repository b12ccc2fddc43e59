"""Every projector of the table against the file that the reference converter writes with --mmproj."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import sights
import tower_table
from commands import quantkit
from gguf import GGUFReader
from reference import REFERENCE
from tower_table import TABLE
from wrong_values import changed, places, wrong

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.describe_tower import describe_tower, read_processor
from quantkit.families.tower import PREPROCESSOR
from quantkit.families.towers import find_tower, known_towers
from quantkit.families.uncarried import ALONE, UNCARRIED
from quantkit.families.unread import UNREAD
from quantkit.filling.slabs import fill_slabs
from quantkit.filling.work import Work
from quantkit.plan.base import STANDARD
from quantkit.plan.encoder import describe_encoder, encoder_type, left_out, plan_encoder
from quantkit.source import Checkpoint, open_source
from quantkit.storage import PartFile, open_job

WRITTEN = [name for name, tower in TABLE.items() if tower.reference]
CONFIG = "config.json"
HEARD = {"num_mel_bins": 16}
SEEING = ("vision_config", "vision_n_layers")  # of config.json: parts, and a number of layers
HEARING = ("audio_config", "whisper_config", "encoder_config", "speech_config", "sound_config")
EVERY_TYPE = {"gemma3", "qwen2audio"}


def types(name: str) -> tuple[str, ...]:
    """What a checkpoint is converted to: "auto" is bf16, as it is stored."""
    return ("auto", "f32", "f16", "q8_0") if name in EVERY_TYPE else ("auto", "f16")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    for name in TABLE:
        tower_table.build(name, folder)
    return folder


@pytest.fixture(scope="module")
def reference(root: Path) -> Callable[[str, str], Path]:
    """What the reference converter makes of the encoder of a published checkpoint."""
    jobs = [
        [str(tower_table.published(name, root)), str(root / f"{name}.{kind}.gguf"), kind, "--mmproj"]
        for name in WRITTEN
        for kind in types(name)
    ]
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return lambda name, kind: root / f"{name}.{kind}.gguf"


def made(source: Path, kind: str, out: Path) -> Path:
    """What quantkit makes of the encoder of a checkpoint."""
    with closing(open_source(str(source))) as checkpoint:
        qtype = encoder_type(checkpoint, kind)
        assert qtype is not None
        model = describe_encoder(checkpoint, qtype)
        assert model is not None
        _, plan = plan_encoder(model, checkpoint, qtype, STANDARD)
        [file] = plan.files
        with open_job(out / f"job-{kind}", digest=plan.digest, files=[PartFile(file.name, file.nbytes)]) as job:
            assert not fill_slabs([Work(checkpoint, plan, job, threads=1)])
            assert file.name == f"mmproj-{source.name}-{'BF16' if kind == 'auto' else kind.upper()}.gguf"
            path = out / f"{kind}-{file.name}"
            path.write_bytes(job.paths[0].read_bytes())
    return path


def equal(found: Any, expected: Any, apart: int, near: float | None) -> bool:
    """Whether values are the same, but for the last bits of f32 where exponentials were taken."""
    if near is not None:
        return bool(np.abs(found - expected).max() <= near)
    if apart == 0 or found.dtype != np.float32:
        return np.array_equal(found, expected)
    return bool((np.abs(found.view(np.int32).astype(np.int64) - expected.view(np.int32)) <= apart).all())


def renamed(name: str, tensor: str) -> str:
    """The name of a tensor of the reference's file as it should be."""
    for old, new in TABLE[name].renames.items():
        tensor = tensor.replace(old, new)
    return tensor


def matches(pattern: str | None, what: str) -> bool:
    return pattern is not None and re.search(pattern, what) is not None


def lacking(name: str, what: str) -> bool:
    """Whether a key or tensor of the reference's file is left out on purpose."""
    return matches(TABLE[name].lacks, what)


def keys(reader: GGUFReader) -> dict[str, tuple[list[int], Any]]:
    return {
        key: ([int(kind) for kind in field.types], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "quantkit."))
    }


@pytest.mark.reference
@pytest.mark.parametrize("name", WRITTEN)
def test_the_file_is_that_of_the_reference(
    name: str, root: Path, reference: Callable[[str, str], Path], tmp_path: Path
) -> None:
    layouts = dict.fromkeys([root / name, tower_table.published(name, root)])
    for number, layout in enumerate(layouts):
        for kind in types(name)[: None if number == 0 else 1]:
            out = tmp_path / str(number)
            out.mkdir(exist_ok=True)
            expected, found = GGUFReader(reference(name, kind)), GGUFReader(made(layout, kind, out))
            wanted = {renamed(name, str(t.name)): t for t in expected.tensors if not lacking(name, str(t.name))}
            adds = TABLE[name].adds
            assert {str(t.name) for t in found.tensors} == {*wanted, *adds}
            for tensor in found.tensors:
                if tensor.name in adds:
                    continue
                other = wanted[str(tensor.name)]
                assert tensor.tensor_type == other.tensor_type, tensor.name
                if matches(TABLE[name].reshaped, str(tensor.name)):
                    assert np.array_equal(tensor.data.reshape(-1), other.data.reshape(-1)), tensor.name
                    continue
                assert list(tensor.shape) == list(other.shape), tensor.name
                near = TABLE[name].near.get(str(tensor.name))
                assert equal(tensor.data, other.data, TABLE[name].apart, near), tensor.name
            assert keys(found) == {key: said for key, said in keys(expected).items() if not lacking(name, key)}


OTHERS = frozenset({"text_config", "language_config", "lm_config", "architectures"})  # of the language model


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_value_is_refused_or_read(name: str, root: Path) -> None:
    """One at each place of config.json and of the processor's file, another in each of its neighbours."""
    with closing(open_source(str(root / name))) as checkpoint:
        tensors, processor = checkpoint.tensors(), dict(TABLE[name].processor)
        cases = [(CONFIG, path) for path in places(checkpoint.config, OTHERS)] + [
            (PREPROCESSOR, (key,)) for key in processor
        ]
        for number, (file, path) in enumerate(cases, start=len(name)):
            value = wrong(number)
            config = changed(checkpoint.config, path, value) if file == CONFIG else checkpoint.config
            said = json.dumps(changed(processor, path, value) if file == PREPROCESSOR else processor).encode()

            def read(asked: str, said: bytes = said) -> bytes | None:
                return said if asked == PREPROCESSOR else checkpoint.read_file(asked)

            try:
                tower = find_tower(config)
                if tower is not None:
                    describe_tower(tensors, config, read, tower, name=name, qtype="f16")
            except QuantkitError as error:
                assert error.hint, (path, value)
            except Exception as error:
                raise AssertionError(f"{file}: {path} = {value!r}") from error


def test_qwen3_asr_is_the_same_in_both_layouts(root: Path) -> None:
    """Published inside a "thinker", saved by transformers without, the last two linears under names of their own."""
    made = []
    for name in ("qwen3asr", "qwen3asr-saved"):
        with closing(open_source(str(root / name))) as checkpoint:
            model = describe_encoder(checkpoint, "f16")
            assert model is not None and not left_out(checkpoint)
            tensors = {(tensor.name, tensor.shape, tensor.stored) for tensor in model.tensors}
            made.append((tensors, [kv for kv in model.metadata if kv.key.startswith("clip.")]))
    assert made[0] == made[1]
    assert ("mm.a.mlp.2.weight", (64, 32), None) in made[1][0]


def described(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The tensors and the keys of the encoder's own that a checkpoint has with another config.json."""
    tower = find_tower(config)
    assert tower is not None
    model = describe_tower(checkpoint.tensors(), config, checkpoint.read_file, tower, name="x", qtype="f16")
    return model.tensors, [kv for kv in model.metadata if kv.key.startswith("clip.")]


@pytest.mark.parametrize("name", tower_table.SAVED)
def test_the_numbers_that_transformers_saves_give_the_same_file(name: str, root: Path) -> None:
    architecture, saved = tower_table.SAVED[name]
    with closing(open_source(str(root / name))) as checkpoint:
        published = {**checkpoint.config, "architectures": [architecture]}
        assert described(checkpoint, saved) == described(checkpoint, published)


def test_values_of_images_that_only_code_says_are_known(root: Path, tmp_path: Path) -> None:
    """Step3-VL's processor is code, which no file of numbers accompanies; one that does wins."""
    folder = tmp_path / "step3vl"
    shutil.copytree(root / "step3vl", folder)
    path = folder / PREPROCESSOR
    for said, mean in (({}, [0.48145466, 0.4578275, 0.40821073]), ({"image_mean": [0.5, 0.25, 0.125]}, None)):
        path.write_text(json.dumps(said)) if said else path.unlink()
        with closing(open_source(str(folder))) as checkpoint:
            assert left_out(checkpoint) is None
            model = describe_encoder(checkpoint, "f16")
            assert model is not None
            [found] = [kv.value for kv in model.metadata if kv.key == "clip.vision.image_mean"]
            assert list(found) == said.get("image_mean", mean)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("step3vl", ("understand_projector_stride",), 4), ("step3vl", ("vision_config", "hidden_act"), "gelu"),
        ("deepseek4v", ("vision_max_n_token",), 512), ("deepseek4v", ("vision_max_wh_ratio",), 4),
    ],
)  # fmt: skip
def test_what_llama_cpp_has_another_number_for_is_refused(
    name: str, path: tuple[str, ...], value: object, root: Path
) -> None:
    with closing(open_source(str(root / name))) as checkpoint:
        with pytest.raises(UnsupportedError, match=f"is {value!r}, llama.cpp") as caught:
            described(checkpoint, changed(checkpoint.config, path, value))
        assert caught.value.hint


def test_processors_of_nemotron_spell_values_of_images_otherwise() -> None:
    for said, mean in (({"norm_mean": [0.5]}, [0.5]), ({"norm_mean": [0.5], "image_mean": [0.25]}, [0.25])):
        processor = json.dumps(said).encode()
        assert read_processor({PREPROCESSOR: processor}.get)["image_mean"] == mean


@pytest.mark.reference
def test_every_encoder_that_the_converter_knows_is_written_or_said_not_to_be() -> None:
    tables = ast.parse((REFERENCE / "conversion" / "__init__.py").read_text()).body
    [table] = [t for t in tables if isinstance(t, ast.AnnAssign) and ast.unparse(t.target) == "MMPROJ_MODEL_MAP"]
    names = ast.literal_eval(table.value or table.target)
    assert len(names) > 60
    assert not set(names) - {name for tower in known_towers() for name in tower.hf} - {*UNCARRIED, *UNREAD}


@pytest.mark.parametrize("architecture", [name for name, why in UNCARRIED.items() if why.reason != ALONE])
def test_an_encoder_that_is_not_carried_is_told_with_the_reason(architecture: str, root: Path, tmp_path: Path) -> None:
    """In place of "none of the known projectors", and what to do instead; one without a language model is refused."""
    folder, why = tmp_path / "glmasr", UNCARRIED[architecture]
    shutil.copytree(root / "glmasr", folder)
    (folder / CONFIG).write_text(json.dumps({"architectures": [architecture], "audio_config": HEARD}))
    with closing(open_source(str(folder))) as checkpoint:
        told = left_out(checkpoint)
        assert told is not None and why.reason in told and why.instead in told
        assert encoder_type(checkpoint, "auto") is None
        with pytest.raises(UnsupportedError, match=re.escape(why.reason)) as caught:
            encoder_type(checkpoint, "f16")
    assert caught.value.hint == why.instead


def test_what_no_file_does_is_told(root: Path) -> None:
    told = {}
    for name in ("gemma3n", "gemma3", "nemotronvl", "nemotronomni"):
        with closing(open_source(str(root / name))) as checkpoint:
            model = describe_encoder(checkpoint, "f16")
            assert model is not None
            told[name] = dict(model.warnings).get("part-left-out")
    films = "llama.cpp reads no films with this model: 1 tensor left out"
    assert told == {
        "gemma3n": "llama.cpp has no encoder of this model's sound: 1 tensor left out",
        "gemma3": None, "nemotronvl": films, "nemotronomni": films,
    }  # fmt: skip


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, 1e-310])
def test_what_is_left_of_a_side_is_a_part_of_it(ratio: float, root: Path) -> None:
    with closing(open_source(str(root / "nemotronvl"))) as checkpoint:
        said = changed(checkpoint.config, ("downsample_ratio",), ratio)
        with pytest.raises(InputError, match=r"downsample_ratio is .* expected a part of 1"):
            described(checkpoint, said)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("step3vl", ("vision_config", "layers")), ("nemotronomni", ("sound_config", "num_hidden_layers")),
        ("deepseekocr", ("vision_config", "width", "sam_vit_b", "layers")),
    ],
)  # fmt: skip
def test_more_layers_than_any_encoder_has_are_refused(name: str, path: tuple[str, ...], root: Path) -> None:
    with closing(open_source(str(root / name))) as checkpoint:
        claim = changed(checkpoint.config, path, 2**31 - 1)
        with pytest.raises(InputError, match="expected 16,384 at most"):
            described(checkpoint, claim)


def test_where_llama_cpp_does_not_see_what_the_model_does_it_is_told(root: Path) -> None:
    told = {}
    for name in ("llava", "llavasiglip", "qwen3omni", "qwen3vl"):
        with closing(open_source(str(root / name))) as checkpoint:
            model = describe_encoder(checkpoint, "f16")
            assert model is not None
            told[name] = [text for code, text in model.warnings if code == "engine-differs"]
    assert "class token after the patches" in told["llava"].pop()
    assert "do not load" in told["qwen3omni"].pop()
    assert not any(told.values())


@pytest.mark.parametrize("name", ["qwen25omni", "qwen3omni"])
def test_sound_beside_images_is_never_of_the_text_model(name: str) -> None:
    """Wherever the thinker's tensors stand: one that is left out of both files would not be told."""
    tower = find_tower({**TABLE[name].config, "architectures": [TABLE[name].model]})
    assert tower is not None
    starts = ("", "model.", "thinker.", "thinker.model.")
    assert all(tower.is_own(f"{start}{part}.x") for start in starts for part in ("visual", "audio_tower"))


@pytest.mark.slow
def test_llama_cpp_sees_what_transformers_does(root: Path, tmp_path: Path) -> None:
    """Embeddings of a random image, in a process of their own; the reference's Llama 4 sees something else."""
    texts = {name: text_model(name, root, tmp_path) for name in ("gemma3", "qwen3vl")}
    jobs = []
    for name in sights.SIDES:
        np.save(tmp_path / f"{name}.npy", sights.pixels(name))
        jobs.append({
            "text": str(texts.get(name, texts["gemma3"])), "mmproj": str(made(root / name, "f32", tmp_path)),
            "pixels": str(tmp_path / f"{name}.npy"), "out": str(tmp_path / f"{name}.seen.npy"),
        })  # fmt: skip
    loaded = {name for name, tower in TABLE.items() if tower.refused is None and name not in sights.SIDES}
    for name in loaded:
        files = {"text": str(texts["gemma3"]), "mmproj": str(made(root / name, TABLE[name].loads, tmp_path))}
        jobs.append({**files, "out": str(tmp_path / f"{name}.json")})
    script = Path(checkpoints.__file__).parent / "oracles" / "mtmd.py"
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in sights.SIDES:
        expected = sights.seen_by_transformers(name, root / name)
        found = sights.rows_of_patches(name, np.load(tmp_path / f"{name}.seen.npy"), len(expected))
        assert found.shape == expected.shape, name
        cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine >= sights.LEAST[name], (name, cosine)
    for name in loaded:
        said = TABLE[name].config.get("thinker_config", TABLE[name].config)
        hears = TABLE[name].lacks is None and any(part in said for part in HEARING)
        senses = {"sees": any(part in said for part in SEEING), "hears": hears}
        assert json.loads((tmp_path / f"{name}.json").read_text()) == senses, name


def text_model(name: str, root: Path, out: Path) -> Path:
    """A language model whose width is that of the encoders; what it computes is of no matter."""
    ran = quantkit("convert", root / name, "--to", "f32", "-o", out, "--pre", checkpoints.PRE, "--mmproj", "none")
    assert ran.status == 0, ran.stderr
    return out / f"{name}-F32.gguf"


# Language models of families that know nothing of encoders, by the architecture that their own part may name.
INSIDE = {
    "pixtral": None, "smolvlm": "VLlama3ForCausalLM", "internvl": "Qwen2ForCausalLM", "lfm2vl": "Lfm2ForCausalLM",
    "qwen2audio": None, "voxtral": None,
}  # fmt: skip


@pytest.mark.reference
@pytest.mark.slow
def test_the_language_model_beside_it_is_that_of_the_reference(root: Path, tmp_path: Path) -> None:
    jobs = []
    for name, architecture in INSIDE.items():
        config = json.loads((root / name / "config.json").read_text())
        told = None
        if architecture is not None:
            told = {**config, "text_config": {**config["text_config"], "architectures": [architecture]}}
        jobs.append([str(root / name), str(tmp_path / f"{name}.gguf"), "auto", checkpoints.PRE, told])
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in INSIDE:
        ran = quantkit("convert", root / name, "--to", "bf16", "-o", tmp_path / name, "--pre", checkpoints.PRE)
        assert ran.status == 0, ran.stderr
        expected, found = GGUFReader(tmp_path / f"{name}.gguf"), GGUFReader(tmp_path / name / f"{name}-BF16.gguf")
        wanted = {str(t.name): t for t in expected.tensors}
        assert {str(t.name) for t in found.tensors} == set(wanted), name
        for tensor in found.tensors:
            assert np.array_equal(tensor.data, wanted[str(tensor.name)].data), (name, tensor.name)
        ours, theirs = (
            {k: v for k, v in keys(r).items() if "quantization_version" not in k} for r in (found, expected)
        )
        assert ours == theirs, name

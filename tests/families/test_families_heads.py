"""Models without their output head, rerankers, and what a checkpoint must hold whichever way it goes."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import pytest
from described import describe_infos
from reference import REFERENCE
from row_headers import headers
from test_families_errors import Infos, info, moe, tiny, without

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import _pooling, find_family
from quantkit.families.heads import headed
from quantkit.families.known import known_families
from quantkit.families.linears import outline
from quantkit.families.names import block_of
from quantkit.families.no_engine import NO_ENGINE
from quantkit.families.towers import known_towers
from quantkit.families.uncarried import ALONE, UNCARRIED
from quantkit.families.unread import UNREAD
from quantkit.families.wrapped import WRAPPED
from quantkit.metadata import KeyValue

HEADS = [name for family in known_families() for name in family.hf if name.endswith("ForCausalLM")]


@pytest.mark.parametrize("architecture", HEADS)
def test_the_inside_of_a_model_is_of_its_family(architecture: str) -> None:
    inside = architecture.replace("ForCausalLM", "Model")
    assert find_family({"architectures": [inside]})[0] is find_family({"architectures": [architecture]})[0]


def test_the_insides_of_gemma_3_have_names_of_their_own() -> None:
    text, vision = (find_family({"architectures": [name]}) for name in ("Gemma3TextModel", "Gemma3Model"))
    assert (text[0].name, text[1], vision[1]) == ("gemma3", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")


def test_a_model_whose_part_for_text_names_an_older_one_goes_by_its_own_name() -> None:
    """Kimi K3 calls its language model by the name of Kimi Linear, whose graph lacks half of it."""
    text = {"architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear"}
    names = ("AnyForConditionalGeneration", "KimiK3ForConditionalGeneration")
    found = [find_family({"text_config": text, "architectures": [name]}).family.name for name in names]
    assert found == ["kimi_linear", "kimi_k3"]


def test_a_gemma_that_reads_both_ways_is_another_architecture() -> None:
    both_ways = {"architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True}
    assert find_family(both_ways).family.gguf == "gemma-embedding"
    assert find_family({**both_ways, "use_bidirectional_attention": None}).family.gguf == "gemma3"


@pytest.mark.parametrize("architecture", ["Gemma3ForConditionalGeneration", "Qwen3ForCausalLM", "LlamaModel"])
def test_others_that_read_both_ways_are_refused(architecture: str) -> None:
    """llama.cpp computes them from left to right."""
    for config in ({"use_bidirectional_attention": True}, {"text_config": {"use_bidirectional_attention": True}}):
        with pytest.raises(UnsupportedError, match=r"both directions|no families match"):
            find_family({"architectures": [architecture], **config})


def test_a_file_that_says_how_vectors_are_pooled_is_missed() -> None:
    """Folders inside a checkpoint's are often not fetched with it."""
    modules = json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]).encode()
    with pytest.raises(InputError, match=r"1_Pooling/config\.json is missing, which says how vectors are pooled"):
        _pooling({"modules.json": modules}.get)
    for said, kind in ((b'{"pooling_mode": "cls"}', 2), (b'{"pooling_mode_lasttoken": true}', 3)):
        assert _pooling({"modules.json": modules, "1_Pooling/config.json": said}.get) == kind


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b"null", b"7", b"[" * 5000])
def test_a_damaged_file_that_says_how_vectors_are_pooled_is_refused(damaged: bytes) -> None:
    """It was taken for a model that does not pool, or pools in a way that nobody knows."""
    modules = json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]).encode()
    with pytest.raises(InputError, match=r"modules\.json: no JSON list"):
        _pooling({"modules.json": damaged}.get)
    with pytest.raises(InputError, match=r"1_Pooling/config\.json: no JSON object"):
        _pooling({"modules.json": modules, "1_Pooling/config.json": damaged}.get)


def test_matrices_after_pooling_are_told_of() -> None:
    """sentence-transformers' Dense modules stay out, as llama.cpp's converter leaves them."""
    config = {"architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True, "num_hidden_layers": 6,
              "sliding_window": 512, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 128}  # fmt: skip
    family = find_family(config).family
    infos = {info.name: info for info in headers(family, family.hparams(config))}
    pooling = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    files = {"1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}'}
    for modules, told in (([pooling, dense], True), ([pooling], False)):
        model = describe_infos(infos, config, files={**files, "modules.json": json.dumps(modules).encode()})
        said = dict(model.warnings).get("dense-modules", "")
        assert ("2_Dense of modules.json" in said) is told
        assert ("gemma-embedding.pooling_type", 1) in {(kv.key, kv.value) for kv in model.metadata if not kv.array}


def bare(infos: Infos) -> Infos:
    """The tensors as a model without its head has them."""
    names = {name: name.removeprefix("model.") for name in infos if name != "lm_head.weight"}
    return {names[name]: info(names[name], *infos[name].shape) for name in names}


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_its_head_is_described_like_one_with_it(tied: bool) -> None:
    infos, config = moe()
    config |= {"tie_word_embeddings": tied}
    whole = {n: i for n, i in infos.items() if not tied or n != "lm_head.weight"}
    expected = describe_infos(whole, config)
    inside = {**config, "architectures": ["MixtralModel"]}
    found = describe_infos(bare(infos), inside)
    assert [t.name for t in found.tensors] == [t.name for t in expected.tensors if t.name != "output.weight"]
    label = "general.size_label"  # counts weights
    assert [kv for kv in found.metadata if kv.key != label] == [kv for kv in expected.metadata if kv.key != label]
    assert ("no-head" in dict(found.warnings)) is not tied
    assert find_family(inside)[1] == "MixtralForCausalLM"
    names = [m.name for m in outline(bare(infos), inside).tensors]
    assert names == [m.name.removeprefix("model.") for m in outline(whole, config).tensors]


def test_a_head_that_is_there_is_used() -> None:
    infos, config = moe()
    found = describe_infos(infos, {**config, "architectures": ["MixtralModel"]})
    assert "output.weight" in {t.name for t in found.tensors}
    assert "no-head" not in dict(found.warnings)


def test_a_language_model_needs_its_head() -> None:
    infos, config = moe()
    with pytest.raises(InputError, match=r"lm_head\.weight"):
        outline(without_head(infos), config)
    assert headed("MixtralForCausalLM") is None


def without_head(infos: Infos) -> Infos:
    without("lm_head.weight")(infos)
    return infos


@pytest.mark.parametrize("model", [tiny, moe])
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_checkpoints_for_servers_miss_every_tensor(model: Any, layer: int | None) -> None:
    """What `plan_checkpoint` begins with: no tokenizer and no weight, but every tensor that must be there."""
    infos, config = model()
    names = [name for name in infos if block_of(name)[0] == layer]
    assert names
    for name in names:
        with pytest.raises(InputError) as caught:
            outline({n: i for n, i in infos.items() if n != name}, config)
        assert caught.value.tensor == name


def test_checkpoints_for_servers_miss_a_whole_layer() -> None:
    infos, config = tiny()
    with pytest.raises(InputError, match=r"model\.layers\.3\.") as caught:
        outline({n: i for n, i in infos.items() if block_of(n)[0] != 3}, config)
    assert caught.value.hint is not None


def test_a_classifier_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(UnsupportedError, match="Qwen3ForSequenceClassification") as caught:
        find_family({"architectures": ["Qwen3ForSequenceClassification"]})
    assert "Qwen3ForCausalLM" in str(caught.value.hint)


def test_unknown_families_hear_which_are_known() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_family({"architectures": ["OlmambaForCausalLM"]})
    assert "quantkit schemes --families" in str(caught.value.hint)
    assert "the nearest known: MambaForCausalLM" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "card", "expected"),
    [
        ("Qwen3-Reranker-0.6B", {}, b"", True),
        ("my-qwen3-reranker-4b-bf16", {}, b"", True),
        ("model", {"_name_or_path": "Qwen/Qwen3-Reranker-8B"}, b"", True),
        ("model", {}, b"---\nlicense: x\n---\n# Qwen3-Reranker-0.6B\n", True),
        ("Qwen3-0.6B", {}, b"# Qwen3\nsee also Qwen3-Reranker", False),
        ("model", {}, b"\xff\xfe", False),
    ],
)
def test_rerankers_are_known_by_name(name: str, config: Mapping[str, Any], card: bytes, expected: bool) -> None:
    from quantkit.families.reranker import is_reranker

    assert is_reranker(name, config, {"README.md": card}.get) is expected


def test_a_reranker_needs_its_two_tokens() -> None:
    from quantkit.families.reranker import judging

    infos, config = tiny()
    tensors = describe_infos(infos, config).tensors
    vocabulary = (KeyValue("tokenizer.ggml.tokens", "string", ("no", "maybe"), array=True),)
    with pytest.raises(InputError, match='no token "yes"'):
        judging(tensors, vocabulary)


@pytest.mark.parametrize("architecture", NO_ENGINE)
def test_what_llama_cpp_cannot_run_is_said(architecture: str) -> None:
    """Not "unknown, the nearest known": there is nothing to wait for in this tool."""
    assert not any(architecture in family.hf for family in known_families())
    with pytest.raises(UnsupportedError, match=f"llama.cpp cannot run {architecture}: "):
        find_family({"architectures": [architecture]})


@pytest.mark.parametrize("architecture", UNREAD)
def test_what_is_not_read_yet_has_another_way(architecture: str) -> None:
    """Not "the nearest known", which is another model: llama.cpp's own converter makes a file that is a source here, or
    there is another checkpoint of the same model."""
    with pytest.raises(UnsupportedError, match=f"llama.cpp's converter reads {architecture}") as caught:
        find_family({"architectures": [architecture]})
    assert caught.value.hint == UNREAD[architecture]


@pytest.mark.parametrize("architecture", [name for name, why in UNCARRIED.items() if why.reason == ALONE])
def test_an_encoder_alone_has_another_way(architecture: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{architecture} is an encoder: ") as caught:
        find_family({"architectures": [architecture]})
    assert caught.value.hint == UNCARRIED[architecture].instead


@pytest.mark.reference
def test_every_name_that_the_converter_knows_is_read_or_said_not_to_be() -> None:
    tables = ast.parse((REFERENCE / "conversion" / "__init__.py").read_text()).body
    names = {
        name
        for table in tables
        if isinstance(table, ast.AnnAssign) and table.value is not None
        for name in ast.literal_eval(table.value)
    }
    read = {*WRAPPED, *(name for family in known_families() for name in family.hf)}
    read |= {name for name in names if headed(name)}
    read |= {name for tower in known_towers() for name in tower.hf}
    assert len(names) > 250
    assert names - read - {*NO_ENGINE, *UNCARRIED} == {*UNREAD}

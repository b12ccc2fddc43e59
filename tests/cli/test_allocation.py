"""Types for a target: sizes to the byte, reasons, and what is refused. Costs are made up; what measures them is tested
in tests/tuning."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from checkpoints import build
from commands import TINY, quantkit
from forks import Forks, operations, spread

from quantkit.calibration.walk.settings import fingerprint
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side
from quantkit.pipeline.guard import corpus_of_samples
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.request import Request
from quantkit.qtypes import base
from quantkit.quality.decoded import open_decoded
from quantkit.tuning.candidates import candidates, nbytes_of
from quantkit.tuning.record import CostRecord, OptionRecord, Sensitivity, TextRecord, read_sensitivity

TEXT = TINY.parent / "calibration.jsonl"
HASH = "0" * 64
ELSEWHERE = 1.25  # times what types cost on text like that of the calibration
TEXTS = 12  # documents: a few thousand tokens


def made_up(source: Path, *, method: str = "rtn", recipe: str = "q4_k_m") -> Sensitivity:
    """Costs that fall by four a bit, other tensors by other factors; down projections cost most."""
    with prepare(Request(str(source), recipes=(recipe,))) as prepared:
        plan = prepared.plans[0]
        model = fingerprint(prepared.checkpoint)
    rng, tensors = np.random.default_rng(5), []
    units = {unit.name: unit for unit in plan.units}
    for name, types in candidates(plan).items():
        price = 10 ** rng.normal() * (100 if "ffn_down" in name else 1)
        losses = {one: float(price * 4 ** -base.get(one).bits_per_weight) for one in types}
        options = tuple(
            OptionRecord(one, nbytes_of(units[name], one), kld, ELSEWHERE * kld) for one, kld in losses.items()
        )
        unit = units[name]
        tensors.append(
            CostRecord(name, str(unit.tensor.role), unit.tensor.layer, unit.tensor.shape, unit.word, options)
        )
    text, other = {"name": "x"}, TextRecord("y", HASH, 64, 64, HASH)
    facts = model, {"name": source.name}, recipe, method, text, 64, 64, tuple(tensors), 1e-6, other, 3e-6
    return Sensitivity(*facts, perplexity=45.0, elsewhere_perplexity=270.0)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    path.write_bytes(made_up(TINY).encode())
    return path


def planned(costs: Path, *options: object, source: Path = TINY) -> dict[str, Any]:
    ran = quantkit("plan", source, "--to", "q4_k_m", "--sensitivity", costs, *options, "--json")
    assert ran.status == 0, ran.stderr
    plan: dict[str, Any] = ran.json["plans"][0]
    return plan


@pytest.mark.parametrize("bits", [3.6, 4.5, 5.0, 6.125, 7.5])
def test_the_whole_file_lands_below_the_target(bits: float, costs: Path) -> None:
    """Within what the smallest tensor is worth in a step of its type; the recipe's own types never lose less."""
    plan = planned(costs, "--target-bpw", bits)
    size, allocation = plan["size"], plan["allocation"]
    assert size["bits_per_weight"] <= bits
    least_step = 64 * 256 * 0.25 / 8
    assert 8 * (size["bytes"] + 8 * least_step) / size["weights"] >= bits
    preset, own = allocation["preset"], allocation["tensor_bytes"]
    if preset["tensor_bytes"] <= own:
        assert allocation["predicted_kld"] <= preset["predicted_kld"]
    assert sum(one["kld"] for one in allocation["tensors"]) == pytest.approx(allocation["predicted_kld"])
    by_name = {tensor["name"]: tensor for tensor in plan["tensors"]}
    for one in allocation["tensors"]:
        assert by_name[one["name"]]["type"] == one["type"]
        assert "% of the predicted KL" in by_name[one["name"]]["reason"]


def test_what_is_predicted_says_for_which_text(costs: Path) -> None:
    """Free types and fixed ones; errors as shares of the recipe's own types. Files that know no other text say so."""
    known, options = read_sensitivity(costs), ("--target-bpw", 5, "--keep", "ffn_up=q3_k")
    allocation = planned(costs, *options)["allocation"]
    elsewhere, kld = allocation["elsewhere"], allocation["predicted_kld"]
    assert elsewhere["predicted_kld"] == pytest.approx(ELSEWHERE * kld)
    assert allocation["standard_error"] == pytest.approx(1e-6 * kld / known.kld)
    assert elsewhere["standard_error"] == pytest.approx(3e-6 * kld / known.kld)
    said = quantkit("plan", TINY, "--sensitivity", costs, *options).stdout
    assert (allocation["perplexity"], elsewhere["perplexity"]) == (45, 270)
    own, other = f"{kld:.3g} ± {allocation['standard_error']:.2g}", f"{elsewhere['predicted_kld']:.3g} ± "
    assert f"predicted KL {own} nats per token on text like x (perplexity 45), {other}" in " ".join(said.split())


def test_costs_of_one_text_alone_are_read_and_spent(costs: Path, tmp_path: Path) -> None:
    """As they were written before there were two; their seal is what it was."""
    path = tmp_path / "old.json"
    body = without_elsewhere(json.loads(costs.read_text()))
    path.write_text(json.dumps(body))
    assert read_sensitivity(path).digest == body["seal"]
    assert read_sensitivity(path).encode() == (json.dumps(body, indent=1) + "\n").encode()
    old, new = (planned(one, "--target-bpw", 5)["allocation"] for one in (path, costs))
    assert "elsewhere" not in old
    assert old["standard_error"] is None
    assert old["tensors"] == new["tensors"]
    said = quantkit("plan", TINY, "--sensitivity", path, "--target-bpw", 5).stdout
    words = f"{old['predicted_kld']:.3g} nats per token on text like x; text of other kinds was not measured"
    assert words in " ".join(said.split())


def without_elsewhere(body: dict[str, Any]) -> dict[str, Any]:
    from quantkit.report.sealed import seal

    for name in ("seal", *(key for key in body if "error" in key or "elsewhere" in key or "perplexity" in key)):
        del body[name]
    for tensor in body["tensors"]:
        for option in tensor["options"]:
            del option["elsewhere"]
    return {**body, "seal": seal(body)}


def test_more_bytes_lose_less_and_go_where_they_matter(costs: Path) -> None:
    plans = [planned(costs, "--target-bpw", bits) for bits in (3.6, 4.4, 5.2, 6.0, 6.8)]
    losses = [plan["allocation"]["predicted_kld"] for plan in plans]
    assert losses == sorted(losses, reverse=True)
    bits = {t["name"]: t["bits_per_weight"] for t in plans[1]["tensors"] if "bits_per_weight" in t}
    down = np.mean([value for name, value in bits.items() if "ffn_down" in name])
    up = np.mean([value for name, value in bits.items() if "ffn_up" in name])
    assert down > up


def test_at_the_bytes_of_the_recipe_it_loses_no_more(costs: Path) -> None:
    own = quantkit("plan", TINY, "--to", "q4_k_m", "--json").json["plans"][0]["size"]["bytes"]
    allocation = planned(costs, "--target-size", own + 64)["allocation"]  # room for a longer label in the header
    assert allocation["predicted_kld"] <= allocation["preset"]["predicted_kld"]


def test_the_file_is_what_the_plan_says(costs: Path, tmp_path: Path) -> None:
    """By the gguf package: types of all tensors, bytes of the file; the manifest says why."""
    plan = planned(costs, "--target-bpw", 5, "--method", "rtn")
    options = ["--to", "q4_k_m", "--method", "rtn", "--sensitivity", costs, "--target-bpw", 5, "-o", tmp_path]
    ran = quantkit("convert", TINY, *options, "--json")
    assert ran.status == 0, ran.stderr
    made = ran.json["artifacts"][0]
    [file] = made["files"]
    assert file["name"] == "docs-llama-tiny-Q4_K_M-5bpw.gguf"
    assert file["bytes"] == plan["size"]["bytes"]
    types = {tensor["name"]: tensor["type"] for tensor in plan["tensors"]}
    stored = gguf.GGUFReader(file["path"]).tensors
    assert {t.name: t.tensor_type.name.lower() for t in stored} == types
    manifest = json.loads(Path(made["manifest"]).read_text())
    assert manifest["allocation"] == plan["allocation"]
    assert manifest["recipe"]["name"] == "q4_k_m --target-bpw 5"
    assert quantkit("convert", TINY, *options, "--json").json["artifacts"][0]["built"] is False


def test_a_head_gets_five_bits_unless_there_is_no_room(costs: Path) -> None:
    for bits, least in ((4.0, 5.5), (2.9, 0.0)):
        plan = planned(costs, "--target-bpw", bits)
        [head] = [t for t in plan["tensors"] if t["name"] == "token_embd.weight"]
        assert head["bits_per_weight"] >= least
        low = [w for w in plan["warnings"] if w["code"] == "low-head"]
        assert bool(low) == (head["bits_per_weight"] < 5.5)


def test_the_smallest_file_that_loses_no_more(costs: Path) -> None:
    allocation = planned(costs, "--target-bpw", 5)["allocation"]
    bound = allocation["predicted_kld"]
    found = planned(costs, "--max-kld", bound)["allocation"]
    assert found["predicted_kld"] <= bound * (1 + 1e-9)
    assert found["tensor_bytes"] <= allocation["tensor_bytes"]


def test_split_files_stay_below_the_target_together(costs: Path) -> None:
    plan = planned(costs, "--target-bpw", 5, "--split-max-size", "600kB")
    assert len(plan["files"]) > 2
    assert plan["size"]["bits_per_weight"] <= 5
    assert sum(file["bytes"] for file in plan["files"]) == plan["size"]["bytes"]


@pytest.mark.parametrize("family", ["qwen3", "qwen3-moe"])
def test_other_rows_and_experts(family: str, tmp_path: Path) -> None:
    """Rows that no super-block divides get types with small blocks; a stack of experts is one tensor."""
    source, path = build(family, tmp_path / "source"), tmp_path / "costs.json"
    path.write_bytes(made_up(source).encode())
    plan = planned(path, "--target-bpw", 6.9, source=source)
    assert plan["size"]["bits_per_weight"] <= 6.9
    for tensor in plan["tensors"]:
        assert tensor["shape"][-1] % base.get(tensor["type"]).block == 0


def test_overrides_are_left_alone(costs: Path) -> None:
    plan = planned(costs, "--target-bpw", 6, "--keep", "ffn_up=q3_k", "--output-type", "q8_0")
    types = {tensor["name"]: tensor["type"] for tensor in plan["tensors"]}
    assert {types[name] for name in types if "ffn_up" in name} == {"q3_k"}
    assert types["token_embd.weight"] == "q8_0"
    assert not {"token_embd.weight"} & {one["name"] for one in plan["allocation"]["tensors"]}


def with_costs(path: Path, costs: Path, factor: float, text: Path) -> Path:
    """The same costs times a factor, as of this text, the seal made anew."""
    calibration = {"name": text.name, "sha256": hashlib.sha256(text.read_bytes()).hexdigest()}
    known = msgspec.structs.replace(read_sensitivity(costs), calibration=calibration)
    tensors = tuple(
        msgspec.structs.replace(
            cost, options=tuple(msgspec.structs.replace(o, kld=o.kld * factor) for o in cost.options)
        )
        for cost in known.tensors
    )
    path.write_bytes(msgspec.structs.replace(known, tensors=tensors).encode())
    return path


def some_text(folder: Path, documents: int) -> Path:
    (folder / "text.jsonl").write_text("".join(TEXT.read_text().splitlines(keepends=True)[:documents]))
    return folder / "text.jsonl"


def middle_loss(made: Path, text: Path) -> float:
    """The mean KL divergence of the middle four of eight windows of text of other kinds."""
    with prepare(Request(str(TINY), calib=(str(text),), samples=16, seqlen=64)) as prepared:
        assert prepared.calibration is not None and prepared.model is not None
        other = prepared.calibration.elsewhere(prepared.checkpoint)
        assert other is not None
        with closing(open_decoded([made], prepared.checkpoint, prepared.model)) as decoded:
            sides = [Side("source", prepared.checkpoint), Side("made", decoded)]
            [scores] = measure(sides[0], sides[1:], corpus_of_samples(other))
    return float(np.sort(scores.kl.reshape(8, -1).mean(1))[2:6].mean())


def test_a_bound_is_measured_before_the_file_gets_its_name(costs: Path, tmp_path: Path) -> None:
    """Costs that promise too much are found out, and leave nothing; those that promise too little are kept."""
    file = some_text(tmp_path, TEXTS)
    text = ["--calib", file, "--samples", 16, "--seqlen", 64, "--method", "rtn"]
    out, bound = tmp_path / "out", 0.004
    promising = with_costs(tmp_path / "promising.json", costs, 1e-4, file)
    command = ["convert", TINY, "--to", "q4_k_m", *text, "--max-kld", bound, "-o", out, "--json"]
    ran = quantkit(*command, "--sensitivity", promising)
    assert ran.status == 8, ran.stderr
    assert "hint: --max-kld" in ran.stderr
    assert not list(out.iterdir())
    careful = with_costs(tmp_path / "careful.json", costs, 1, file)
    ran = quantkit(*command, "--sensitivity", careful)
    assert ran.status == 0, ran.stderr
    allocation = json.loads(Path(ran.json["artifacts"][0]["manifest"]).read_text())["allocation"]
    measured = allocation["measured"]
    assert measured["sha256"] == allocation["calibration"]["sha256"]
    assert f"({allocation['predicted_kld']:.3g} predicted) on " in ran.stderr
    assert 0 < measured["kld"] <= bound
    assert measured["held_out"] is True
    assert 2048 <= measured["tokens"] + 64 < 16_384
    assert measured["tokens"] % 63 == 0
    other = measured["elsewhere"]
    assert other["tokens"] == 8 * 63
    assert other["kld"] == pytest.approx(middle_loss(out / "docs-llama-tiny-Q4_K_M-kld0.004.gguf", file), rel=1e-6)
    assert "of text of other kinds" in ran.stderr
    ran = quantkit("quantize", TINY, *text, "--max-kld", bound, "--sensitivity", careful, "-o", tmp_path / "work")
    assert (ran.status, "convert" in ran.stderr) == (2, True)
    ran = quantkit("convert", TINY, "--method", "rtn", "--max-kld", bound, "--sensitivity", careful, "-o", out)
    assert (ran.status, "--calib default" in ran.stderr) == (2, True)


@pytest.mark.parametrize("factor", [1e-4, 1.0])
def test_costs_of_another_text_are_not_compared_with_what_is_measured(
    factor: float, costs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "words"}\n')
    known = with_costs(tmp_path / "other.json", costs, factor, other)
    text = ["--calib", some_text(tmp_path, 2), "--samples", 2, "--seqlen", 64, "--method", "rtn"]
    command = ["convert", TINY, "--to", "q4_k_m", *text, "--max-kld", 0.004, "--sensitivity", known]
    ran = quantkit(*command, "-o", tmp_path / "out", "--json")
    assert "predicted)" not in ran.stderr
    assert "was predicted for text like other.jsonl" in ran.stderr
    assert ran.status == (8 if factor < 1 else 0), ran.stderr
    assert ("hint: leave --sensitivity out" in ran.stderr) is (factor < 1)
    if factor == 1:
        allocation = json.loads(Path(ran.json["artifacts"][0]["manifest"]).read_text())["allocation"]
        assert (allocation["calibration"]["name"], allocation["measured"]["name"]) == ("other.jsonl", "text.jsonl")
        assert allocation["measured"]["sha256"] != allocation["calibration"]["sha256"]


REFUSED = {
    "two targets": (["--target-size", "3MB", "--target-bpw", "5"], 2, "one of them"),
    "no size": (["--target-size", "big"], 2, "is not a size"),
    "bytes": (["--target-size", "24"], 2, 'did you mean "24GB"'),
    "few bytes": (["--target-size", "24kB"], 2, "the smallest file"),
    "no bytes": (["--target-size", "0"], 2, "is 0 bytes\n"),
    "too small": (["--target-bpw", "1.5"], 2, "the smallest file"),
    "too large": (["--target-bpw", "14"], 2, "--to bf16"),
    "no amount": (["--target-bpw", "nan"], 2, "no amount"),
    "negative": (["--target-bpw=-4"], 2, "no amount"),
    "no number": (["--target-bpw", "four"], 2, "--target-bpw"),
    "nothing lost": (["--max-kld", "1e-30"], 2, "predicted to lose"),
    "zero": (["--max-kld", "0"], 2, "no amount"),
    "pure": (["--target-bpw", "5", "--pure"], 2, "nothing to choose"),
    "all kept": (["--target-bpw", "5", "--keep", ".=q4_k"], 2, "nothing to choose"),
    "floats": (["--target-bpw", "5", "--to", "bf16"], 2, "all types are floats"),
    "checkpoint": (["--target-bpw", "5", "--to", "w8a16"], 2, "GGUF"),
    "imatrix": (["--target-bpw", "5", "--imatrix", "x.gguf"], 2, "--calib"),
    "another recipe": (["--target-bpw", "5", "--to", "iq3_m"], 2, "what iq3_s costs"),
    "no target": ([], 2, "--target-bpw 4.5"),
}


@pytest.mark.parametrize(("command", "case"), [("plan", case) for case in REFUSED] + [("convert", "too small")])
def test_what_is_refused(case: str, command: str, costs: Path, tmp_path: Path) -> None:
    options, status, said = REFUSED[case]
    to = [] if "--to" in options else ["--to", "q4_k_m"]
    ran = quantkit(command, TINY, *to, *options, "--sensitivity", costs, "-o", tmp_path / "out")
    assert ran.status == status, ran.stderr
    assert said in ran.stderr
    assert "hint:" in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_a_target_needs_text_or_costs(command: str, tmp_path: Path) -> None:
    ran = quantkit(command, TINY, "--target-bpw", 5, "-o", tmp_path)
    assert ran.status == 2
    assert "--calib default" in ran.stderr
    ran = quantkit(command, TINY, "--target-bpw", 5, "--calib", "x.safetensors", "-o", tmp_path)
    assert ran.status == 2
    assert "gradients" in ran.stderr


@pytest.mark.parametrize("text", [(), ("--calib", TEXT)])
def test_a_plan_does_not_run_text(text: tuple[object, ...]) -> None:
    """Nor does it ask for text that it would not run."""
    for command in (["plan"], ["convert", "--dry-run"]):
        ran = quantkit(command[0], TINY, *command[1:], "--target-bpw", 5, *text)
        assert ran.status == 2
        assert "quantkit sensitivity" in ran.stderr


def test_one_of_several_recipes_misses_the_target(costs: Path) -> None:
    """It is left out, as for any other reason; the others are planned."""
    ran = quantkit("plan", TINY, "--to", "q4_k_m,iq3_m", "--sensitivity", costs, "--target-bpw", 5, "--json")
    assert ran.status == 10, ran.stderr
    said = json.loads(ran.stdout.splitlines()[0])
    assert [plan["allocation"]["target"]["value"] for plan in said["plans"]] == ["5"]
    assert [(one["recipe"], one["exit"]) for one in said["failures"]] == [("iq3_m", 2)]


def test_types_that_were_not_measured_are_told(costs: Path) -> None:
    plan = planned(costs, "--target-bpw", 5, "--output-type", "q5_1", "--keep", "blk.0.ffn_up=q4_1")
    [said] = [warning["message"] for warning in plan["warnings"] if warning["code"] == "unpriced"]
    assert {word for word in ("q5_1", "blk.0.ffn_up.weight as q4_1") if word in said} == {
        "q5_1",
        "blk.0.ffn_up.weight as q4_1",
    }
    plan = planned(costs, "--target-bpw", 5, "--output-type", "q8_0")
    assert not [warning for warning in plan["warnings"] if warning["code"] == "unpriced"]


def test_the_bound_of_a_hint_can_be_kept(costs: Path, tmp_path: Path) -> None:
    for factor in (1.0, 1.3, 1.7):
        path = with_costs(tmp_path / "costs.json", costs, factor, TEXT)
        ran = quantkit("plan", TINY, "--sensitivity", path, "--max-kld", "1e-30")
        bound = re.search(r"hint: --max-kld (\S+),", ran.stderr)
        assert bound
        assert planned(path, "--max-kld", bound[1])["allocation"]["predicted_kld"] <= float(bound[1])


def test_a_place_for_costs_is_looked_at_before_they_are_measured(costs: Path, tmp_path: Path) -> None:
    """A run takes hours: what is in its way is said first."""
    (tmp_path / "file").write_text("mine")
    command = ["sensitivity", TINY, "--calib", TEXT, "--samples", 2, "--seqlen", 32]
    places = {
        tmp_path: "Is a directory",
        tmp_path / "file": "exists and differs",
        tmp_path / "file" / "x.json": "Not a directory",
        tmp_path / ("x" * 300): "possible file name",
        costs: "exists and differs",
        Path("/proc/costs.json"): "takes no files",
    }
    for place, said in places.items():
        ran = quantkit(*command, "-o", place)
        assert (ran.status, said in ran.stderr) == (6, True), ran.stderr
        assert "predicted to lose" not in ran.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def changed(costs: Path, **fields: Any) -> bytes:
    return msgspec.structs.replace(read_sensitivity(costs), **fields).encode()


def test_costs_of_another_model_or_method_are_refused(costs: Path, tmp_path: Path) -> None:
    path, target = tmp_path / "other.json", ["--target-bpw", 5]
    path.write_bytes(changed(costs, model=HASH))
    ran = quantkit("plan", TINY, *target, "--sensitivity", path)
    assert (ran.status, "another model" in ran.stderr) == (3, True)
    path.write_bytes(changed(costs, method="gptq"))
    ran = quantkit("plan", TINY, *target, "--sensitivity", path, "--method", "rtn")
    assert (ran.status, "--method gptq" in ran.stderr) == (2, True)
    # without another method the costs say which: files of feedback are planned as such
    ran = quantkit("plan", TINY, *target, "--sensitivity", path, "--json")
    assert ran.json["plans"][0]["method"]["name"] == "gptq"
    # whose text is wanted then: no other method would do
    ran = quantkit("convert", TINY, *target, "--sensitivity", path, "-o", tmp_path / "out")
    assert (ran.status, "--calib default" in ran.stderr, "--method rtn" in ran.stderr) == (2, True, False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body["tensors"][0]["options"][0].update(kld=0.5),
        lambda body: body.update(schema="quantkit.plan/1"),
        lambda body: body["tensors"][0]["options"][0].update(kld=-1),
        lambda body: body["tensors"][0]["options"][0].update(type="q9_k"),
        lambda body: body["tensors"].append(body["tensors"][0]),
        lambda body: body["tensors"][0].update(type="iq1_s"),
        lambda body: body["tensors"][0].update(options=[]),
        lambda body: body["tensors"][0]["options"][0].pop("elsewhere"),
        lambda body: body.pop("elsewhere"),
        lambda body: body["elsewhere"].pop("tokens"),
        lambda body: body["elsewhere"].update(name=["y"]),
        lambda body: body.pop("model"),
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_damaged_costs_are_refused(damage: Any, sealed: bool, costs: Path, tmp_path: Path) -> None:
    """Whether or not whoever changed them sealed them again; a cost alone may be another then."""
    from quantkit.report.sealed import seal

    body = json.loads(costs.read_text())
    damage(body)
    if sealed:
        body.pop("seal")
        body["seal"] = seal(body)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(body))
    ran = quantkit("plan", TINY, "--target-bpw", 5, "--sensitivity", path)
    legal = sealed and body["tensors"][0]["options"][0].get("kld") == 0.5 if body["tensors"][0]["options"] else False
    assert ran.status == (0 if legal else 3), ran.stderr


@pytest.mark.slow
def test_killed_anywhere_it_resumes_to_the_same_types_and_bytes(costs: Path, tmp_path: Path) -> None:
    """By any number of threads."""
    command = ["convert", str(TINY), "--to", "q4_k_m", "--method", "rtn", "--sensitivity", str(costs)]
    command += ["--target-bpw", "5", "--quiet", "--no-verify"]
    warm, golden = tmp_path / "warm" / "model.gguf", tmp_path / "golden" / "model.gguf"
    forks = Forks([*command, "--threads", "1", "-o", str(warm)])
    try:
        assert forks.run([*command, "--threads", "2", "-o", str(golden)]) == 0
        assert warm.read_bytes() == golden.read_bytes()
        count = operations(forks, tmp_path, command)
        for n in spread(count, 12):
            target = tmp_path / f"kill-{n}" / "model.gguf"
            target.parent.mkdir()
            assert forks.run([*command, "-o", str(target)], f"kill:{n}") == -signal.SIGKILL
            assert forks.run([*command, "-o", str(target)]) == 0
            assert target.read_bytes() == golden.read_bytes(), n
    finally:
        forks.close()


@pytest.mark.slow
def test_at_the_same_bytes_less_is_lost_and_about_what_was_predicted(tmp_path: Path) -> None:
    """All of it for real: measured, made with feedback, and run beside the original on text that nothing has seen."""
    text = ["--calib", TEXT, "--samples", 96, "--seqlen", 128]
    measured = quantkit("sensitivity", TINY, *text, "-o", tmp_path / "costs.json", "--json")
    assert measured.status == 0, measured.stderr
    files = []
    for options in ([], ["--sensitivity", tmp_path / "costs.json", "--target-size", 0]):
        if options:
            options[-1] = files[0].stat().st_size
        made = quantkit("convert", TINY, "--to", "q4_k_m", *text, *options, "-o", tmp_path / str(len(files)), "--json")
        assert made.status == 0, made.stderr
        files.append(Path(made.json["artifacts"][0]["files"][0]["path"]))
    allocation = json.loads(Path(made.json["artifacts"][0]["manifest"]).read_text())["allocation"]
    preset, chosen = (file.stat().st_size for file in files)
    assert 0.999 * preset <= chosen <= preset
    held_out = ["--against", TINY, "--data", TINY.parent / "held-out.jsonl", "--window", 128, "--tokens", 6000]
    ran = quantkit("eval", *files, *held_out, "--json")
    assert ran.status == 0, ran.stderr
    own, best = (artifact["kl"]["value"] for artifact in ran.json["artifacts"])
    assert best < 0.95 * own
    for found, predicted in ((own, allocation["preset"]["predicted_kld"]), (best, allocation["predicted_kld"])):
        assert 0.6 < predicted / found < 1.67, (predicted, found)

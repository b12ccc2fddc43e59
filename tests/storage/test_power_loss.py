"""The power fails after any system call: what the disk may then hold is undamaged, and the rerun completes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from storage import scenario
from storage.power import Call, Machine, Recorder, restore
from storage.scenario import NAMES, TENSORS, build, lacking, open_scenario

from quantkit.storage import open_job
from quantkit.storage.disk import mkdir

ROUTES = {"replace": (True, ()), "new": (False, ()), "bare": (False, ("fallocate", "rename_noreplace"))}
each_route = pytest.mark.parametrize("route", ROUTES)


def recorded(route: str, root: Path, stop_after: int = 0) -> tuple[dict[str, bytes], list[Call]]:
    """The files before a run and the calls it makes; with `stop_after`, those of a run that continues."""
    replace, missing = ROUTES[route]
    root.mkdir()
    before: dict[str, bytes] = {}
    if replace:
        root.rmdir()
        before = scenario.with_old_artifact(root)
    recorder = Recorder()
    if stop_after:
        build(root, lacking(*missing, ops=recorder), overwrite=replace, stop_after=stop_after)
    build(root, lacking(*missing, ops=recorder), overwrite=replace)
    scenario.assert_complete(root)
    return before, recorder.log


def machine_after(root: Path, before: dict[str, bytes], log: list[Call]) -> Machine:
    machine = Machine(root, before)
    machine.replay(log)
    return machine


def test_the_model_ends_as_the_real_disk(tmp_path: Path) -> None:
    """Without power loss, all changes kept and synced, the replay is the folder as it is."""
    for route in ROUTES:
        root = tmp_path / route
        before, log = recorded(route, root, stop_after=3)
        machine = machine_after(root, before, log)
        for inode in machine.names.values():
            if inode is not None:
                inode.sync()
        real = {root / name: (root / name).read_bytes() for name in scenario.files(root)}
        model = {path: bytes(inode.durable) for path, inode in machine.names.items() if inode is not None}
        assert model == real


@each_route
@pytest.mark.parametrize("states", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop_after", [0, 3], ids=["once", "resumed"])
def test_power_fails_after_any_call(route: str, stop_after: int, states: int, tmp_path: Path) -> None:
    replace, missing = ROUTES[route]
    root = tmp_path / "root"
    before, log = recorded(route, root, stop_after)
    for length in range(len(log) + 1):
        for seed in range(states):
            dice = random.Random(f"{route} {stop_after} {length} {seed} {states}")
            state = machine_after(root, before, log[:length]).after_power_loss(dice)
            out = tmp_path / f"{length}-{seed}"
            restore(state, root, out)
            scenario.assert_nothing_damaged(out, before)
            build(out, lacking(*missing), overwrite=replace)
            scenario.assert_complete(out)


@each_route
def test_success_is_durable(route: str, tmp_path: Path) -> None:
    """When a run has ended well, nothing that was not synced is needed."""
    root = tmp_path / "root"
    before, log = recorded(route, root)
    for seed in range(20):
        state = machine_after(root, before, log).after_power_loss(random.Random(seed), keep=0.0)
        out = tmp_path / str(seed)
        restore(state, root, out)
        assert scenario.contents(out) == scenario.contents(root)


@each_route
def test_a_published_file_is_durable_before_its_manifest(route: str, tmp_path: Path) -> None:
    replace, missing = ROUTES[route]
    root = tmp_path / "root"
    before = scenario.with_old_artifact(root) if replace else {}
    recorder = Recorder()
    with open_scenario(root, lacking(*missing, ops=recorder)) as job:
        scenario.fill(job)
        job.publish([root / name for name in NAMES], overwrite=replace, check=scenario.check_structure)
        log = list(recorder.log)
    start = root if replace else root.parent
    for seed in range(20):
        machine = Machine(start, before)
        machine.replay(log)
        state = machine.after_power_loss(random.Random(seed), keep=0.0)
        assert tuple(state[root / name] for name in NAMES) == scenario.CONTENTS


def test_the_folder_of_a_published_file_is_durable_whoever_made_it(tmp_path: Path) -> None:
    """A run that was killed may have made the folder and not synced its name."""
    root = tmp_path / "root"
    recorder = Recorder()
    with open_job(root / scenario.JOB, digest=scenario.DIGEST, files=scenario.FILES[2:], ops=recorder) as job:
        recorder(mkdir, root / scenario.FOLDER, 0o777)
        job.write(0, 0, scenario.CONTENTS[2])
        job.publish([root / NAMES[2]], overwrite=False, check=lambda part: None)
        log = list(recorder.log)
    machine = Machine(tmp_path, {})
    machine.replay(log)
    assert machine.after_power_loss(random.Random(0), keep=0.0)[root / NAMES[2]] == scenario.CONTENTS[2]


@each_route
def test_flushed_tensors_are_never_lost(route: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    before, log = recorded(route, root)
    journal_lines = [i for i, call in enumerate(log) if call.name == "write" and b'"tensor"' in bytes(call.args[1])]  # type: ignore[call-overload]
    flushed = next(i for i in range(journal_lines[2], len(log)) if is_sync_of(log, i, "journal.jsonl"))
    names = [(i, str(c.args[1])) for i, c in enumerate(log) if c.name in ("replace", "rename_noreplace", "link")]
    publishing = next(i for i, name in names if "lease-" not in name)
    assert journal_lines[2] < flushed < journal_lines[3] < publishing
    for length in range(flushed + 1, publishing):
        for seed in range(3):
            state = machine_after(root, before, log[:length]).after_power_loss(
                random.Random(f"{length} {seed}"), keep=0
            )
            out = tmp_path / f"{length}-{seed}"
            restore(state, root, out)
            with open_scenario(out) as job:
                assert {t.name for t in TENSORS[:3]} <= set(job.records)


def is_sync_of(log: list[Call], index: int, name: str) -> bool:
    """Whether a call syncs the file of this name: the last open that returned its descriptor tells."""
    if log[index].name != "fsync":
        return False
    opened = [c for c in log[:index] if c.name in ("open", "open_at") and c.result == log[index].args[0]]
    return Path(str(opened[-1].args[0])).name == name


def test_the_model_loses_what_is_not_synced(tmp_path: Path) -> None:
    """A rename before the fsync of its file, the classic mistake, damages the target in this model."""
    recorder = Recorder()
    real = lacking(ops=recorder)

    def forgetful(call, *args):  # type: ignore[no-untyped-def]
        return None if call.__name__ == "fsync" and args[0] > 2 else real(call, *args)

    tmp_path.joinpath("root").mkdir()
    build(tmp_path / "root", forgetful)
    damaged = 0
    for seed in range(20):
        state = machine_after(tmp_path / "root", {}, recorder.log).after_power_loss(random.Random(seed), keep=1.0)
        damaged += state[tmp_path / "root" / NAMES[0]] != scenario.CONTENTS[0]
    assert damaged > 10

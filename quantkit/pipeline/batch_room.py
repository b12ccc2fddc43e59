"""Whether there is room for the tasks of a batch: outputs of their own, memory, disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quantkit.batch.faults import Faults
from quantkit.batch.task import Task
from quantkit.errors import ResourceError, UsageError
from quantkit.pipeline.batch_plan import PlannedFiles, PlannedTask
from quantkit.report.text import size
from quantkit.storage import free_bytes
from quantkit.units import counted
from quantkit.untrusted import shown

TOO_LARGE = "fewer --threads or --jobs, a larger --memory, another machine or worker, or exclude it"


def require_room(planned: Sequence[PlannedTask], memory: int | None, out: Path, faults: Faults) -> None:
    """Add to `faults` a task that needs more memory than there is, and a disk that does not hold all of them."""
    tasks = needs_left([each for each in planned if each.error is None])
    for task in tasks:
        if memory is not None and task.needs.memory_bytes > memory:
            what = f"{task.id}: needs {size(task.needs.memory_bytes)} of memory, {size(memory)} are there"
            faults.add(ResourceError(what, hint=TOO_LARGE))
    needed, free = sum(task.needs.disk_bytes for task in tasks), free_bytes(out)
    fetched = download_bytes(tasks)
    if fetched:
        needed += _fetched_here(fetched, out, faults)
    if needed > free:
        fit, left = 0, free
        for task in sorted(tasks, key=lambda task: task.needs.disk_bytes):
            left -= task.needs.disk_bytes
            fit += left >= 0
        what = (
            f"not enough disk at {shown(out)}: {needed:,} bytes needed for {counted(len(tasks), 'task')}, {free:,} free"
            f" ({needed - free:,} short): it holds {fit} of them"
        )
        faults.add(ResourceError(what, path=str(out), hint="free some space, choose another out, or exclude some"))


def download_bytes(tasks: Sequence[Task]) -> int:
    """What all tasks fetch together: each model once."""
    models: dict[str, int] = {}
    for task in tasks:
        models[task.model] = max(models.get(task.model, 0), task.needs.download_bytes)
    return sum(models.values())


def _fetched_here(nbytes: int, out: Path, faults: Faults) -> int:
    """What of the bytes to fetch goes to the disk of `out`; where the cache has a disk of its own that does not hold
    them, that is a fault."""
    from quantkit.source.hub_access import Hub  # huggingface_hub: only where something is fetched

    cache = Hub().known().cache or out
    if _device(cache) == _device(out):
        return nbytes
    free = free_bytes(cache)
    if nbytes > free:
        what = f"not enough disk at {shown(cache)}: {nbytes:,} bytes to fetch, {free:,} free ({nbytes - free:,} short)"
        faults.add(ResourceError(what, path=str(cache), hint="free some space, or set HF_HUB_CACHE to another disk"))
    return 0


def _device(folder: Path) -> int:
    """The number of the disk that a folder is on, or would be."""
    path = folder.absolute()
    return next(each for each in (path, *path.parents) if os.path.exists(each)).stat().st_dev  # noqa: PTH110


def require_own_outputs(
    found: Sequence[PlannedTask], faults: Faults, taken: Mapping[Path, tuple[str, str]] | None = None
) -> None:
    """No two tasks write one file, but for an encoder, which is the same whoever writes it. `taken` are files of tasks
    that are not begun, each with its task and recipe."""
    owners: dict[Path, tuple[str, str]] = dict(taken or {})
    for each in found:
        for made in each.artifacts:
            for path in made.paths:
                other, recipe = owners.setdefault(path, (each.task.id, made.recipe))
                same = other == each.task.id and recipe == made.recipe
                if not same and made.kind == "model":
                    who = f"{other} and {each.task.id}" if other != each.task.id else f"two recipes of {other}"
                    what = f"{who} would write one file: {shown(path)}"
                    hint = "give one of the recipes a folder of its own: folder = ..."
                    faults.add(UsageError(what, path=str(path), key="folder", hint=hint))


def needs_left(planned: Sequence[PlannedTask]) -> list[Task]:
    """The tasks with the disk that each will still fill: artifacts that are there, and what lies there as unfinished
    work, are subtracted."""
    unfinished: dict[Path, int] = {}
    tasks = []
    for each in planned:
        task, out = each.task, each.task.out
        left = task.needs.disk_bytes - sum(made.nbytes for made in each.artifacts if _is_there(made))
        if out not in unfinished:
            unfinished[out] = _allocated(out)
        used = min(max(left, 0), unfinished[out])  # of tasks that share a folder the first
        unfinished[out] -= used
        tasks.append(replace(task, needs=replace(task.needs, disk_bytes=max(left, 0) - used)))
    return tasks


def _is_there(made: PlannedFiles) -> bool:
    """Whether files of these names and sizes are there: they are found, or replaced one by one."""
    try:
        return sum(path.stat().st_size for path in made.paths) == made.nbytes
    except OSError:
        return False


def _allocated(folder: Path) -> int:
    """Bytes of unfinished work in a folder."""
    jobs = list(folder.glob(".quantkit-*")) if os.path.isdir(folder) else []  # noqa: PTH112 - names too long
    found = 0
    for job in jobs:
        for file in job.rglob("*") if job.is_dir() else ():
            with suppress(OSError):  # of another process, which goes on meanwhile
                facts = file.lstat()
                found += facts.st_blocks * 512 if stat.S_ISREG(facts.st_mode) else 0
    return found

"""Model cards: README.md beside finished artifacts, from their manifests, their source's card, and measurements."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import ExistsError, InputError, UsageError
from quantkit.events import Sink, ignore
from quantkit.pipeline.card_base import base_of
from quantkit.pipeline.card_steps import Beside, steps_of
from quantkit.pipeline.folder import Finished, finished_in, manifests_in, require_finished
from quantkit.pipeline.given import coerce, given_optional, given_paths
from quantkit.pipeline.judged import Judged, gates_of, judged_in, measured_in, measured_of
from quantkit.pipeline.outputs import refuse_inputs
from quantkit.pipeline.taken_over import is_taken_over, record_of, with_own_card, write_over
from quantkit.records import record
from quantkit.report.card import CARD, Card, Measured, Variant, unchanged
from quantkit.report.card_sections import Rollout
from quantkit.report.html.markup import digits
from quantkit.report.manifest import Manifest
from quantkit.report.markdown import REPOSITORY, code, plain
from quantkit.report.next_steps import NextStep
from quantkit.report.shell import shell_word
from quantkit.source import Checkpoint, open_source
from quantkit.storage import read_sums, require_small, sums_after, update_sums, write_small
from quantkit.units import counted
from quantkit.untrusted import read_bounded, require_path, shown

MAX_CARD = 1 << 20
MAX_DEPTH = 3  # of folders of artifacts in the one that is named
HINT = "move it away, or replace it with --force"


@record
class CardRequest:
    """For which artifacts: GGUF files or folders, each folder gets one card. `against` is the source, whose card says
    the licence; `records` are measurements (quantkit.eval/1, eval-history/1), used for artifacts of their identity."""

    paths: tuple[Path, ...]
    against: str | None = None
    records: tuple[Path, ...] = ()
    quantized_by: str | None = None
    base_model: str | None = None
    force: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        coerce(self, {"paths": given_paths, "records": given_paths, "against": given_optional})
        if self.base_model is not None and not REPOSITORY.fullmatch(self.base_model):
            message = f"--base-model {shown(self.base_model)} names no repository"
            raise UsageError(message, key="base_model", hint="for example org/name")


def write_cards(request: CardRequest, emit: Sink = ignore, *, dry_run: bool = False) -> tuple[Path, ...]:
    """Write a card into every folder of artifacts that is named, or lies in a folder that is; the paths of the cards.

    A card that quantkit wrote and nobody edited is replaced, any other README.md only with `force`: ExistsError. Raises
    InputError for a folder without manifests, NotWritableError, ResourceError. With `dry_run` nothing is written.
    """
    folders = list(dict.fromkeys(folder for path in request.paths for folder in folders_of(path)))
    for folder in folders:
        require_card_place(folder, force=request.force)
    source = None
    if request.against:
        source = open_source(request.against, offline=request.offline, emit=emit, headers=True)
    try:
        if source is not None:
            inputs = [Path(file.path) for file in source.files()]
            refuse_inputs([folder / CARD for folder in folders], _beside(inputs), HINT)
        written = [write_card(folder, request, source, dry_run=dry_run) for folder in folders]
    finally:
        if source is not None:
            source.close()
    return tuple(written)


def require_cards(groups: Sequence[Sequence[Path]], checkpoint: Checkpoint, *, force: bool) -> None:
    """Raise, before any work, what keeps cards from being written beside these files: see `require_card_place`; and
    ExistsError where a card would take the place of the source's own."""
    inputs = _beside([Path(file.path) for file in checkpoint.files()])
    for folder in dict.fromkeys(targets[0].parent for targets in groups):
        refuse_inputs([folder / CARD], inputs)
        require_card_place(folder, force=force)


def write_cards_of(artifacts: Sequence[Path], checkpoint: Checkpoint | None, *, force: bool) -> None:
    """The cards of the folders of artifacts that were just made, named by their first files."""
    for folder in dict.fromkeys(path.parent for path in artifacts):
        write_card(folder, CardRequest((folder,), force=force), checkpoint)


def require_card_place(folder: Path, *, force: bool = False) -> None:
    """Raise ExistsError for a README.md that is neither a card as quantkit wrote it nor the source's, taken over with a
    checkpoint, unless `force`; NotWritableError for a place that takes no file."""
    path = folder / CARD
    require_path(path)
    if os.path.lexists(path) and not (force or _is_own(path) or is_taken_over(folder, finished_in(folder))):
        what = f"{shown(path)} is there and was written or edited by somebody"
        raise ExistsError(what, path=str(path), hint=HINT)
    if folder.is_dir():
        require_small(path)


def _is_own(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_CARD:
        return False
    return unchanged(read_bounded(path, MAX_CARD))


def write_card(folder: Path, request: CardRequest, source: Checkpoint | None, *, dry_run: bool = False) -> Path:
    """The card of all artifacts of one folder; see `write_cards`."""
    finished = require_finished(folder)
    require_card_place(folder, force=request.force)
    finished = tuple(with_own_card(one) for one in finished)
    data = card_of(finished, request, source).encode()
    if dry_run:
        return folder / CARD
    manifests = {one.manifest_path.name: one.rewritten for one in finished if one.rewritten is not None}
    if manifests:
        sums = {one.manifest_path.name: record_of(one).sha256 for one in finished}
        write_over(folder, {**manifests, CARD: data}, sums_after(folder, sums, drop=[CARD]))
        return folder / CARD
    write_small(folder / CARD, data, overwrite=True)
    if CARD.encode() in (read_sums(folder) or {}):  # of a release: the line is true again
        update_sums(folder, {CARD: hashlib.sha256(data).hexdigest()})
    return folder / CARD


def _beside(files: Sequence[Path]) -> list[Path]:
    """The cards of a source's folders."""
    return [folder / CARD for folder in dict.fromkeys(file.parent for file in files)]


def folders_of(path: Path) -> Iterator[Path]:
    """The folders of artifacts that a path means: that of a file, a folder with manifests, or those below it. Raises
    InputError for what does not exist."""
    require_path(path)
    if not path.exists():
        raise InputError(f"{shown(path)} does not exist", path=str(path), hint="check the path")
    if not path.is_dir():
        yield path.parent
        return
    below = list(_below(path, MAX_DEPTH))
    if manifests_in(path) or not below:
        yield path
    yield from below


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """The folders with manifests in a folder, as batches make them: those of models, and of checkpoints in these."""
    for each in sorted(folder.iterdir()):
        if depth and each.is_dir() and not each.is_symlink() and not each.name.startswith("."):
            if manifests_in(each):
                yield each
            yield from _below(each, depth - 1)


def card_of(
    finished: Sequence[Finished], request: CardRequest, source: Checkpoint | None, rollout: Rollout | None = None
) -> Card:
    """What the card of artifacts of one source says; `rollout` where it is that of a release."""
    first = finished[0]
    known = measured_in(request.records), judged_in(request.records)
    if first.gguf:
        library = word = "gguf"
    else:
        word = str(first.manifest.facts["model"].get("container", ""))
        library = "mlx" if word == "mlx" else "transformers"
    kinds = tuple(tag for tag in (word, "lora" if first.adapts else "quantized", "quantkit") if tag)
    base = base_of(first, source)
    if request.base_model is not None:
        base = replace(base, repo=request.base_model)
    beside = Beside(
        next((Path(one.first.name) for one in finished if one.encodes), None),
        base.repo,
        {} if rollout is None else rollout.modelfiles,
    )
    variants = tuple(_variant(one, known, steps_of(one, beside)) for one in finished)
    title = variants[0].label if len(variants) == 1 else f"{base.name} quantized"
    return Card(title, base, variants, library, kinds, request.quantized_by, rollout)


Known = tuple[Mapping[str, Measured], Mapping[str, Sequence[Judged]]]


def _variant(artifact: Finished, known: Known, run: Sequence[NextStep]) -> Variant:
    manifest = artifact.manifest
    return Variant(
        label=artifact.label,
        files=artifact.files,
        bits_per_weight=float(manifest.facts["size"]["bits_per_weight"]),
        measured=measured_of(artifact, known[0]),
        made=tuple(_made(manifest)),
        command=command(manifest),
        run=tuple(run),
        gates=tuple((gate.words, gate.ok) for gate in gates_of(artifact, known[1])),
    )


def command(manifest: Manifest) -> str:
    """The command that makes the same bytes: the source by its place on the Hub, else by its name; data by name."""
    source = manifest.source
    where = f"hf://{source['repo']}" if source.get("repo") else f"./{source['name']}"
    if source.get("repo") and source.get("commit"):
        where += f"@{source['commit']}"
    recipe, *options = str(manifest.recipe["name"]).split(" --")
    if manifest.facts["model"].get("kind") == "mmproj":  # is written beside any GGUF file
        options = [f"mmproj {recipe.partition('-')[2]}"]
        recipe = "q8_0"
    words = ["quantkit", "convert", shell_word(where), "--to", shell_word(recipe)]
    for option in options:
        name, blank, value = option.partition(" ")
        words += [shell_word(f"--{name}"), *([shell_word(value)] if blank else [])]
    calibration = manifest.facts.get("calibration")
    if isinstance(calibration, Mapping):
        words += _calibration_words(calibration)
    target = (manifest.facts.get("allocation") or {}).get("target")
    if isinstance(target, Mapping) and "option" in target:
        words += [shell_word(f"--{str(target['option']).lstrip('-')}"), shell_word(str(target.get("value", "")))]
    return " ".join([*words, "-o", "out"])


def _calibration_words(calibration: Mapping[str, Any]) -> Iterator[str]:
    for name in str(calibration.get("name", "")).split(", "):
        yield from ("--calib", shell_word(name))
    ids, seqlen = calibration.get("ids"), calibration.get("seqlen")
    if isinstance(ids, list) and isinstance(seqlen, int):
        yield from ("--samples", str(len(ids)), "--seqlen", str(seqlen))


def _made(manifest: Manifest) -> Iterator[str]:
    """How an artifact came about, in Markdown."""
    facts = manifest.facts
    yield f"Recipe {code(str(manifest.recipe['name']))}, quantkit {plain(str(facts['tool'].get('version')))}."
    types = ", ".join(f"{plain(str(t['type']))} {counted(t['tensors'], 'tensor')}" for t in facts["size"]["types"])
    yield f"Types: {types}."
    method = facts.get("method")
    if isinstance(method, Mapping):
        moved = f", scales moved by {plain(str(method['transform']))}" if method.get("transform") else ""
        yield f"Method {plain(str(method.get('name')))}{moved}."
    calibration = facts.get("calibration")
    if isinstance(calibration, Mapping):
        tokens = calibration.get("tokens")
        many = f"{counted(tokens, 'token')} of " if isinstance(tokens, int) else ""
        yield f"Calibrated on {many}{code(str(calibration.get('name')))} ({code(str(calibration.get('sha256'))[:16])})."
    loss = (facts.get("allocation") or {}).get("measured")
    if isinstance(loss, Mapping) and isinstance(loss.get("kld"), int | float):
        held = "held out" if loss.get("held_out") else "that it was calibrated on"
        yield f"Measured while it was made: KL divergence {digits(loss['kld'])} nats on text {held}."
    norms = facts.get("norms")
    if isinstance(norms, Mapping) and norms.get("kept") == "refitted":
        before, after = (norms.get(f"kld_{when}") for when in ("before", "after"))
        if isinstance(before, int | float) and isinstance(after, int | float):
            change = f"{digits(before)} to {digits(after)} nats on text that they were not fitted to"
            yield f"Norms fitted to the rounded weights: KL divergence {change}."
    for check in facts.get("checks") or ():
        if isinstance(check, Mapping) and check.get("ok"):
            detail = f" ({plain(str(check['detail']))})" if check.get("detail") else ""
            yield f"Checked: {plain(str(check.get('check')))}{detail}."
    yield f"Identity (plan and source hashes): {code(manifest.identity)}."

"""A recommendation for people, in lines as wide as the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from quantkit.pipeline.advice import SERVER_LADDER
from quantkit.pipeline.recommendation import KEEP, NO_ROOM, Choice, Recommendation
from quantkit.report.shell import shell_word
from quantkit.report.text import size, table, wrapped

DATA = "held-out.jsonl"


def recommendation_lines(found: Recommendation, width: int) -> list[str]:
    """The verdict with its numbers, the ladder, why, and what to type."""
    out: list[str] = []
    for text in _verdict(found):
        out += wrapped(text, width, 2)
    if found.ladder:
        rows = [_row(found, choice) for choice in found.ladder]
        rows.append(
            (
                "original",
                f"{found.original_bits:.2f}",
                size(found.original.weights),
                size(found.original.nbytes),
                _mark(found, None),
            )
        )
        lines = table(rows, ("recipe", "bits", "weights", "all of it", ""))
        out += ["", *(line.rstrip() for line in lines)]
    out += ["", "why"]
    for reason in found.reasons:
        out += wrapped(f"  - {reason.why} [{reason.source}]", width, 4)
    steps = commands(found)
    if steps:
        out += ["", "next"]
        for what, command in steps:
            out += wrapped(f"  {what}:", width, 4)
            out += [f"    {line}" for line in _shell(command, width - 4)]
    return out


def _verdict(found: Recommendation) -> Iterator[str]:
    request, chosen = found.request, found.chosen
    whose = "this machine's memory, no --memory given" if found.of_machine else "--memory"
    if chosen is not None:
        yield f"{found.verdict}: {chosen.recipe}, {chosen.bits_per_weight:.2f} bits per weight"
        yield f"  {chosen.needs.words}, of {size(found.memory_bytes)}"
    elif found.verdict == KEEP:
        fits = "fits in" if found.original.nbytes <= found.memory_bytes else "does not fit in"
        yield f"{found.verdict}: serve {found.source} as it is"
        yield f"  {found.original.words}, which {fits} {size(found.memory_bytes)}"
    else:
        yield from _too_large(found)
    texts = f"{request.slots} texts of {found.context:,} tokens" if request.slots > 1 else f"{found.context:,} tokens"
    yield f"  {request.workload}, driver {request.driver}; memory: {size(found.memory_bytes)} ({whose})"
    yield f"  cache of {texts} in {request.kv_type}: {found.cache_words}"
    yield "  overhead: logits and activations of 512 tokens, and 0.5 GB for the program and its driver"


def _too_large(found: Recommendation) -> Iterator[str]:
    wanted, largest = found.wanted, found.largest
    if wanted is not None:
        room = size(found.memory_bytes)
        yield f"{found.verdict}: {wanted.recipe} needs {size(wanted.needs.nbytes)}, {room} are there"
        yield f"  {wanted.needs.words}"
    else:
        yield f"{found.verdict}: no recipe of the ladder can be made of {found.source}"
    if largest is None:
        yield "  nothing else fits either"
        return
    bits = f"{largest.bits_per_weight:.2f} bits per weight"
    yield f"  the largest that does: {largest.recipe}, {bits}: {largest.needs.words}"
    yield f"  not recommended for {found.request.workload}: measure it first, or a smaller model at more bits"


def _row(found: Recommendation, choice: Choice) -> tuple[str, ...]:
    needs = choice.needs
    bits = f"{choice.bits_per_weight:.2f}"
    return choice.recipe, bits, size(needs.weights), size(needs.nbytes), _mark(found, choice)


def _mark(found: Recommendation, choice: Choice | None) -> str:
    if choice is None:
        marks = ["recommended"] if found.verdict == KEEP else []
        marks += [] if found.original.nbytes <= found.memory_bytes else ["too large"]
        return ", ".join(marks)
    marks = ["recommended"] if choice == found.chosen else []
    marks += [] if choice.fits else ["too large"]
    if choice.measured is not None:
        held = {True: "passes", False: "fails", None: "open"}[choice.measured.passes(found.gate)]
        marks.append(f"KL {choice.measured.kl:.2g} {held}")
    if not marks and choice in found.next:
        marks = [f"next {found.next.index(choice) + 1}"]
    return ", ".join(marks)


def commands(found: Recommendation) -> list[tuple[str, list[str]]]:
    """What to type, in words of a shell, and what for."""
    chosen = found.chosen or (found.largest if found.verdict == NO_ROOM else None)
    if chosen is None:
        return []
    calib = ["--calib", "default"] if found.calib or chosen.text else []
    source = found.request.source
    gate = ["--gate", found.gate, "--eval-data", DATA]
    steps = [("make it, published only if the gate holds",
              ["quantkit", "convert", source, "--to", chosen.recipe, *calib, *gate, "-o", "out"])]  # fmt: skip
    if found.next:
        names = " → ".join(choice.recipe for choice in found.next)
        room = found.memory_bytes - chosen.needs.cache - chosen.needs.overhead
        served = ["--servers"] if any(chosen.recipe in names for names in SERVER_LADDER.values()) else []
        served += ["--for", ",".join(found.request.consumers)] if found.request.consumers else []
        tune = ["quantkit", "tune", source, *gate, "--max-size", f"{room // 10**6}MB", *calib, *served, "-o", "out"]
        steps.append((f"if it fails, go up ({names}), or let tune find the smallest that passes", tune))
    return steps


def _shell(words: list[str], width: int) -> list[str]:
    """A command on lines that a shell joins again."""
    lines = [""]
    for word in map(shell_word, words):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines

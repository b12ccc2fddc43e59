"""Lists of targets against all modules of a checkpoint, in time that does not grow with their product.

A checkpoint may name thousands of patterns and have thousands of modules. RE2 follows all patterns at once; those that
look ahead, which it cannot, are followed one by one within a common budget of steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.patterns import LINEAR, MAX_NAME, REGEX, steps_to_match, understood
from quantkit.untrusted import shown

MAX_PATTERNS_LENGTH = 1 << 17  # of all patterns of a list together
MAX_ALL_STEPS = 1_000_000  # of patterns that look ahead, over all names: about two seconds
MAX_SECONDS = 2.0  # of processor time in RE2; what real checkpoints say takes thousandths
MAX_LOOKING_AHEAD = 256
SET_BYTES = 64 << 20
LOOKS_AHEAD = ("(?=", "(?!")


class Targets:
    """Names, classes and "re:" patterns, in their order. Raises UnsupportedError for a pattern that is not understood,
    for too many of them, and for what would take too long to match."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._names = frozenset(target for target in targets if not target.startswith(REGEX))
        patterns = [(at, target.removeprefix(REGEX)) for at, target in enumerate(targets) if target.startswith(REGEX)]
        ahead = [(at, pattern) for at, pattern in patterns if any(looks in pattern for looks in LOOKS_AHEAD)]
        if sum(len(pattern) for _, pattern in patterns) > MAX_PATTERNS_LENGTH or len(ahead) > MAX_LOOKING_AHEAD:
            what = f"the modules are named by {len(patterns):,} patterns, {len(ahead):,} of which look ahead"
            limit = f"{MAX_LOOKING_AHEAD} that do and {MAX_PATTERNS_LENGTH:,} characters are taken"
            raise UnsupportedError(f"{what}: {limit}", key="quantization_config", hint="name them in fewer patterns")
        for _, pattern in patterns:
            understood(pattern)
        self._targets = tuple(targets)
        self._one_by_one = ahead
        slow = {at for at, _ in ahead}
        self._together = _PatternSet([(at, pattern) for at, pattern in patterns if at not in slow])
        self._one_by_one += self._together.refused
        self._steps = 0

    def pattern_for(self, module: str) -> str | None:
        """The first pattern that fits a module's name from its beginning on, None without one."""
        if len(module) > MAX_NAME:
            return None
        found = [*self._together.fitting(module)]
        for at, pattern in self._one_by_one:
            fits, steps = steps_to_match(pattern, module)
            self._steps += steps
            if self._steps > MAX_ALL_STEPS:
                raise _too_long(pattern)
            if fits:
                found.append(at)
        return self._targets[min(found)] if found else None

    def means(self, module: str) -> bool:
        """Whether any of the targets names this module, or fits it; classes do not count."""
        return module in self._names or self.pattern_for(module) is not None

    def target_for(self, module: str) -> str | None:
        """The target that decides for a linear layer: its name, then patterns, then the class of all; None without one.

        This is the order of compressed-tensors' match_targets and of vLLM's find_matched_target.
        """
        if module in self._names:
            return module
        found = self.pattern_for(module)
        return found if found is not None else LINEAR if LINEAR in self._names else None


class _PatternSet:
    """Patterns that RE2 matches at once; `refused` are those that it does not take. `at` is a pattern's place."""

    def __init__(self, patterns: Sequence[tuple[int, str]]) -> None:
        self.refused: list[tuple[int, str]] = []
        self._places: list[int] = []
        self._set: Any = None
        self._seconds = 0.0
        if not patterns:
            return
        import re2  # only for checkpoints with patterns

        options = re2.Options()
        options.max_mem = SET_BYTES
        options.log_errors = False
        options.never_nl = False
        self._set = re2.Set.MatchSet(options)
        for at, pattern in patterns:
            try:
                self._set.Add(pattern)
                self._places.append(at)
            except (re2.error, UnicodeEncodeError):
                self.refused.append((at, pattern))
        self._set.Add("")  # fits everything: when it is not found, memory ran out
        self._set.Compile()

    def fitting(self, module: str) -> list[int]:
        """The places of all patterns that fit a name."""
        if self._set is None:
            return []
        start = time.thread_time()
        found = self._set.Match(module)
        self._seconds += time.thread_time() - start
        end = len(self._places)
        if end not in found or self._seconds > MAX_SECONDS:
            raise _too_long(f"{end:,} patterns")
        return [self._places[number] for number in found if number < end]


def _too_long(pattern: str) -> UnsupportedError:
    what = f'the targets of quantization_config take too long to match, last "{shown(pattern)}"'
    return UnsupportedError(what, key="quantization_config", hint="name the modules in fewer, simpler patterns")

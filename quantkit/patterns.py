"""Patterns that recipes and command lines bring along, matched in bounded time.

Python's `re` and `fnmatch` backtrack: a short pattern can keep them busy for years. Regular expressions go through
RE2, which follows all ways through a pattern at once (Cox, "Regular Expression Matching Can Be Simple And Fast",
2007); what no such engine can do, looking around and referring back, is refused by name. Globs are cut at their stars
into pieces of fixed length, each looked for once, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

MAX_PATTERN = 1000
PATTERN_BYTES = 1 << 22  # what RE2 may spend on a pattern and on matching it; one of 1,000 characters takes 0.5 MB
MAX_WORK = 3_000_000  # pieces of globs looked for in names: about two seconds

Test = Callable[[str], bool]

# What RE2 has no operator for -> what to call it. The first one found names the reason.
UNSUPPORTED = (
    ("(?=", "looks ahead, (?=...)"),
    ("(?!", "looks ahead, (?!...)"),
    ("(?<=", "looks behind, (?<=...)"),
    ("(?<!", "looks behind, (?<!...)"),
    ("(?>", "has an atomic group, (?>...)"),
    ("(?(", "has a condition, (?(...)...)"),
    ("(?P=", "refers back to a group, (?P=...)"),
    ("\\", "refers back to a group"),
)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
WILD = re.compile(r"\[!?+\]?+[^\]]*+\]|[*?]")


class PatternError(ValueError):
    """A pattern that is malformed, too large, or needs an operator that cannot be matched in bounded time."""


@lru_cache(maxsize=256)
def compile_search(pattern: str, *, cased: bool = False) -> Test:
    """A test whether the regular expression `pattern` is found in a name; without `cased`, upper and lower case alike.

    Raises PatternError.
    """
    import re2  # only for runs with patterns

    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"it has more than {MAX_PATTERN:,} characters")
    bare = ESCAPED.sub(lambda found: "\\" if found[1] in "123456789" else "", pattern)
    for operator, what in UNSUPPORTED:
        if operator in bare and not pattern.endswith(operator):
            raise PatternError(f"it {what}: that cannot be matched in bounded time")
    options = re2.Options()
    options.max_mem = PATTERN_BYTES
    options.case_sensitive = cased
    options.never_capture = True
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternError(error.args[0].decode("utf-8", "replace")) from error
    except UnicodeEncodeError as error:
        raise PatternError("it is not Unicode text") from error
    return lambda name: compiled.search(name) is not None


def require_work(globs: Iterable[str], names: int) -> None:
    """Raise PatternError where looking for the globs in so many names would take more than some two seconds."""
    pieces = sum(1 + glob.count("*") + (len(glob) if "?" in glob or "[" in glob else 0) for glob in globs)
    if pieces * names > MAX_WORK:
        raise PatternError(f"its names are too many for {names:,} tensors")


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> Test:
    """A test whether `glob` fits a whole name: * is any text, ? a character, [abc], [a-c], [!a-c] a choice of them.

    As fnmatch.fnmatchcase, which takes time exponential in the number of stars where this takes their product with
    the length of the name.
    """
    pieces = _pieces(glob)
    if len(pieces) == 1:
        whole = pieces[0]
        return lambda name: whole.length == len(name) and whole.find(name, 0) == 0
    first, *middle, last = pieces

    def fits(name: str) -> bool:
        end = len(name) - last.length
        if first.find(name, 0) != 0 or end < first.length or last.find(name, end) != end:
            return False
        at = first.length
        for piece in middle:
            at = piece.find(name, at)
            if at < 0 or at + piece.length > end:
                return False
            at += piece.length
        return True

    return fits


class _Piece:
    """What stands between two stars: text, or a pattern of as many characters as `length` says."""

    def __init__(self, words: list[str]) -> None:
        self.length = len(words)
        self._text = "".join(words)
        wild = any(len(word) > 1 or word == "?" for word in words)
        self._pattern = re.compile("".join(map(_translated, words)), re.DOTALL) if wild else None

    def find(self, name: str, at: int) -> int:
        """Where it begins in the name, from `at` on; -1 where nowhere."""
        if self._pattern is None:
            return name.find(self._text, at)
        found = self._pattern.search(name, at)
        return found.start() if found else -1


def _pieces(glob: str) -> list[_Piece]:
    pieces: list[list[str]] = [[]]
    at = 0
    while at < len(glob):
        wild = WILD.match(glob, at)
        word = wild[0] if wild else glob[at]
        at += len(word)
        if word == "*":
            pieces.append([])
        else:
            pieces[-1].append(word)
    return [_Piece(words) for words in pieces]


def _translated(word: str) -> str:
    """A character, ? or a choice of characters as a regular expression that takes one character."""
    if word == "?":
        return "."
    if len(word) == 1:
        return re.escape(word)
    negated = word[1] == "!"
    chars, found, at = word[1 + negated : -1], [], 0
    while at < len(chars):
        is_range = chars[at + 1 : at + 2] == "-" and at + 2 < len(chars)
        first, last = chars[at], chars[at + 2] if is_range else chars[at]
        if first <= last:  # a range that ends before it begins holds nothing
            found.append(f"{re.escape(first)}-{re.escape(last)}")
        at += 3 if is_range else 1
    if not found:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(found)}]"

"""Does an artifact hold what it should? The same questions for every container, when it is made and ever after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.errors import QuantkitError, UnsupportedError
from quantkit.quality.against import Against
from quantkit.quality.checks.base import Check, Verification, VerifyOptions
from quantkit.quality.checks.numbers import check_numbers
from quantkit.quality.checks.structure import check_structure
from quantkit.quality.checks.tokenizer import check_tokenizer
from quantkit.quality.made import Made, Place

NEEDS_SOURCE = "needs --against SRC"


def check(
    made: Made,
    against: Against | None,
    promised: Sequence[Place] | None,
    options: VerifyOptions,
) -> Verification:
    """Look at an artifact: structure, tokenizer, numbers.

    `promised` are the tensors that a plan or a manifest names, None where nobody does. Without `against` nothing is
    compared with a source. Raises InputError for a source that is damaged.
    """
    return Verification(tuple(_looks(made, against, promised, options)))


def _looks(
    made: Made, against: Against | None, promised: Sequence[Place] | None, options: VerifyOptions
) -> Iterator[Check]:
    structure, unread = check_structure(made, promised), None
    try:
        made.held()
    except UnsupportedError as error:
        unread = f"nobody reads it back: {error.message}"
    except QuantkitError as error:
        structure = Check("structure", False, error.message) if structure.ok else structure
        unread = "the files are not what they say"
    yield structure
    if against is None:
        yield from (Check(name, None, NEEDS_SOURCE) for name in ("tokenizer", "numbers"))
    else:
        reference = against.reference
        if reference is not None and reference.model.kind == "mmproj":
            yield Check("tokenizer", None, "an encoder has none")
        else:
            compared = reference.compared if reference else None
            yield check_tokenizer(made, against.source, against.carried, against.rewritten, compared)
        yield Check("numbers", None, unread) if unread else check_numbers(made, against, options)

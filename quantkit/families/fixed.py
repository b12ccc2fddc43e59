"""What llama.cpp's graph of an architecture has no key for: config.json has to say the one thing that it computes."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import Hparams
from quantkit.untrusted import shown


def require_only(hparams: Hparams, known: Mapping[str, object], *, silent: bool = False) -> None:
    """Raise UnsupportedError, naming the key, for a value that is not the `known` one.

    `silent` says that a key that is missing means the known one.
    """
    for key, value in known.items():
        said = hparams.values.get(key, value if silent else None)
        if said != value:
            what = f"config.json: {key} is {shown(repr(said)[:80])}, llama.cpp has only {value!r}"
            raise UnsupportedError(what, key=key, hint="this variant has no graph in llama.cpp")

"""What is predicted to be lost, and on which text: what a type costs depends on what is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.untrusted import shown

SHIPPED = "default"  # the name of the text that ships with quantkit, which is of many kinds


def predicted_words(facts: Mapping[str, Any]) -> str:
    """ "0.000178 ± 4.7e-06 nats per token on text like a.jsonl, 0.00024 ± 8e-06 on most text of other
    kinds".

    `facts` are those of an allocation or of costs: `predicted_kld`, `standard_error`, `calibration`, and `elsewhere`
    with the same of the middle half of text of other kinds, where that was measured. With a `perplexity` it stands
    behind the text, of which it says how well the model reads it.
    """
    known, elsewhere = facts.get("calibration") or {}, facts.get("elsewhere")
    own = f"{_figure(facts)} nats per token on {text_words(known)}{_read(facts)}"
    if elsewhere:
        return f"{own}, {_figure(elsewhere)} on most text of other kinds{_read(elsewhere)}"
    return own if known.get("name") == SHIPPED else f"{own}; text of other kinds was not measured"


def text_words(known: Mapping[str, Any]) -> str:
    """What a prediction holds for, by the `calibration` of an allocation or of costs: "text like a.jsonl"."""
    if "name" not in known:
        return "text like what it was measured on"
    name = str(known["name"])
    return "text like the shipped one, of many kinds" if name == SHIPPED else f"text like {shown(name)}"


def _read(facts: Mapping[str, Any]) -> str:
    value = facts.get("perplexity")
    return "" if value is None else f" (perplexity {float(value):.3g})"


def _figure(facts: Mapping[str, Any]) -> str:
    value, error = f"{float(facts['predicted_kld']):.3g}", facts.get("standard_error")
    return value if error is None else f"{value} ± {float(error):.2g}"

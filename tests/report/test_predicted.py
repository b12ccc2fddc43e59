"""What is predicted to be lost, in words: always with the text that it holds for."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.report.predicted import predicted_words

FIGURE = {"predicted_kld": 0.0001784, "standard_error": 4.71e-06}
WORDS: dict[str, tuple[dict[str, Any], str]] = {
    "file": ({"calibration": {"name": "a.jsonl"}}, "text like a.jsonl; text of other kinds was not measured"),
    "shipped": ({"calibration": {"name": "default"}}, "text like the shipped one, of many kinds"),
    "old": ({"calibration": {}}, "text like what it was measured on; text of other kinds was not measured"),
    "both": (
        {"calibration": {"name": "a.jsonl"}, "elsewhere": {"predicted_kld": 0.00024}},
        "text like a.jsonl, 0.00024 on most text of other kinds",
    ),
    "perplexities": (
        {
            "perplexity": 45.21,
            "calibration": {"name": "a.jsonl"},
            "elsewhere": {"predicted_kld": 0.00024, "perplexity": 271.8},
        },
        "text like a.jsonl (perplexity 45.2), 0.00024 on most text of other kinds (perplexity 272)",
    ),
}


@pytest.mark.parametrize("which", WORDS)
def test_a_prediction_says_for_which_text(which: str) -> None:
    facts, text = WORDS[which]
    assert predicted_words({**FIGURE, **facts}) == f"0.000178 ± 4.7e-06 nats per token on {text}"

"""What never leaves in words: tokens, keys, passwords; and characters that would drive a terminal."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
# Every pattern has a group that stays, and none can match a quote or a backslash: JSON text stays JSON text. Before it
# stand small letters of which a text has some if the pattern finds anything in it.
PATTERNS = (
    (("hf_", "api_org_"), r"\b(hf_|api_org_)[A-Za-z0-9]{8,}", 0),  # Hugging Face
    (("gh", "glpat-", "xox", "sk-"), r"\b(gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-)[A-Za-z0-9_-]{16,}", 0),
    (("akia", "asia", "aroa", "aida"), r"\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}", 0),  # of AWS
    (("secret_", "_token"),
     r"(\b(?:aws_)?(?:secret_access_key|secret_key|session_token|security_token)[ \t]*[=:][ \t]*)[^\s\"'\\,&]+",
     re.IGNORECASE),
    (("authorization",),
     r"(\bauthorization[ \t]*[=:][ \t]*(?:(?:bearer|basic|token|digest|aws4-hmac-sha256)[ \t]+)?)[^\s\"'\\,]+",
     re.IGNORECASE),
    (("bearer", "basic"), r"(\b(?:bearer|basic)[ \t]+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE),
    (("://",), r"(\b[a-z][a-z0-9+.-]*://)[^\s\"'\\/@]+@", re.IGNORECASE),  # user:password@host
    (("=",), r"([?&;](?:[a-z0-9_-]*(?:token|signature|credential|secret|password|passwd|api[_-]?key|access[_-]?key)"
     r"|sig|auth|key)=)[^\s\"'\\&;#]+", re.IGNORECASE),
    (("passw", "key", "token"),
     r"(\b(?:password|passwd|api[_-]?key|access[_-]?token|auth[_-]?token)[ \t]*[=:][ \t]*)[^\s\"'\\,&]+",
     re.IGNORECASE),
)  # fmt: skip
OF_URLS = r"(\b[a-z][a-z0-9+.-]*://)" + re.escape(HIDDEN) + r"(?!@)"
VARIABLES = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
SHORTEST = 8  # a shorter value of a variable is no secret, and would hide words


def redact(text: str) -> str:
    """Text without tokens, keys and passwords: those of known form, and the values of VARIABLES."""
    for name in VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    small = text.lower() if text.isascii() else None  # other letters have other small ones
    for signs, pattern, flags in PATTERNS:
        if small is None or any(sign in small for sign in signs):
            text = re.sub(pattern, rf"\g<1>{HIDDEN}", text, flags=flags)
    return re.sub(OF_URLS, rf"\g<1>{HIDDEN}@", text, flags=re.IGNORECASE) if "://" in text else text


def printable(text: str) -> str:
    """Redacted text with every control character but tab shown as an escape: names cannot drive the terminal."""
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "surrogatepass").decode()
        for c in redact(text)
    )

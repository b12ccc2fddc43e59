"""Takes the place of pypcre for gptqmodel: the same names, on the standard library's regular expressions."""

from __future__ import annotations

import re
from re import *  # noqa: F403


class Flag:
    """The flags that gptqmodel uses."""

    CASELESS = re.IGNORECASE
    MULTILINE = re.MULTILINE
    DOTALL = re.DOTALL

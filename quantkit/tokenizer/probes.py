"""2,000 probe strings that tell tokenizers apart: what real text has, and what implementations trip over.

The strings are made by a fixed rule from fixed parts, so they are the same everywhere; changing the rule is changing
what "2,000 of 2,000 probes" means. All are in Unicode normal form C, because llama.cpp applies no normalization, and
use characters assigned before Unicode 15, because libraries disagree on newer ones. None has a NUL, or the U+2581
that SentencePiece writes for spaces.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count

COUNT = 2000
Why = Callable[[str], str | None]  # why a text is left out, None for one that is not

WORDS = (
    "the quick brown fox jumps over the lazy dog",
    "Hello, World! It's a test; isn't it? They'll've been WE'RE we'd I'm 'tis o'clock",
    "ALL CAPS CamelCase snake_case kebab-case SCREAMING_SNAKE dot.path iPhone McDonald XMLHttpRequest",
    "a bb ccc dddd eeeee ffffff ggggggg aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa xyxyxyxyxyx ababab",
    "naïve café Zürich Ångström Łódź São Tomé façade señor smörgåsbord Dvořák İstanbul ığüşöç",
    "Привет мир Это проверка токенизатора Съешь ещё этих мягких французских булок МоскваСити",
    "Γειά σου Κόσμε Ελληνικά ΑΒΓ αβγ ὕδωρ",
    "שלום עולם עברית בְּרֵאשִׁית",
    "مرحبا بالعالم اللغة العربية الْعَرَبِيَّة ۱۲۳",
    "नमस्ते दुनिया हिन्दी भाषा में परीक्षण क्षत्रिय श्रीमान",
    "বাংলা ভাষা தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം",
    "สวัสดีชาวโลก ภาษาไทย",
    "ខ្ញុំ ភាសាខ្មែរ မြန်မာ ລາວ",
    "你好世界 这是一个测试 我想在苹果工作 繁體中文 龍龜",
    "こんにちは世界 これはテストです カタカナ ひらがな 漢字 ｶﾀｶﾅ",
    "안녕하세요 세계 한국어 토크나이저 시험",
    "አማርኛ ქართული հայերեն ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ",
)
CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2; }",
    "if (!ptr || ptr->next == NULL) {\n\t\treturn -1;\n\t}\n",
    "SELECT * FROM users WHERE id = 42 AND name LIKE '%a_b%';",
    '<div class="x">&nbsp;text</div>\r\n',
    "https://example.org/path?q=a%20b&c=d#frag",
    "user.name+tag@mail.example.com",
    '{"key": [1, 2.5, -3e10, null, true], "s": "\\u00e9\\n"}',
    "C:\\Windows\\System32\\*.dll",
    "#include <stdio.h>",
    "\\frac{a}{b} + \\sum_{i=1}^{n} x_i^2 = \\alpha",
    "$ git commit -m 'fix: it''s' && make -j8 > out.log 2>&1",
    '```python\nprint(f"{x!r:>10}")\n```',
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "x = y if z else w; lambda *a, **k: a @ k",
    "0x1F 0b1010 1_000_000 3.14159e-10 1e9 .5 5. +1 -1",
    "fn main() -> Result<(), Box<dyn Error>> { Ok(()) }",
)
NUMBERS = (
    "0", "7", "42", "123", "1234", "12345", "123456", "1234567", "12345678901234567890", "3.14",
    "1,000,000", "-273.15", "1/2", "50%", "$9.99", "2024-02-29", "23:59:59", "192.168.0.1", "007", "1e-5",
    "1st", "2nd", "v1.2.3-rc4", "٣٤٥", "१२३", "１２３", "²³¹", "½¾", "Ⅷ", "①②③", "百二十",
)  # fmt: skip
SPACES = (
    " ", "  ", "   ", "    ", "       ", "        ", "                ",
    "                                 ", "\n", "\n\n", "\n\n\n", "\n\n\n\n\n\n\n\n\n", "\t", "\t\t",
    "\t \t", " \t", "\n \n", " \n", "\n ", "    \n    ", "\t\n\t", "\r\n", "\r\n\r\n", "\r", "\u00a0",
    " \u00a0 ", "\u2003", "\u3000", "\u2028", "\u0085", "\x0b", "\x0c",
)  # fmt: skip
SYMBOLS = (
    "!", "?!", "...", "…", "---", "—", "===", "''", "``", '""', "“quoted”", "‘single’", "«guillemets»",
    "()", "[]", "{}", "<>", "<<>>", "&&", "||", "@#$%^&*", "~", "`", "\\", "/", "//", "/*", "*/", "_", "__",
    "+-", "±", "×÷", "≠≤≥", "→⇒", "∀x∈ℝ", "∑∏∫", "°C", "€£¥₹", "©®™", "§¶", "•◦", "■□", "♠♥", "✓✗", "、。",
    "！？", "「」", "·", "‰", "¿¡", "ﬁ", "\u200b", "\u200d", "\ufeff", "x\u0302", "\u0301", "\x01", "\x7f",
    "\u202e", "�",
)  # fmt: skip
EMOJI = (
    "🙂", "🚀🚀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "😶‍🌫️", "🦙", "🤷🏾‍♀️", "✅", "☕",
    "𝓗𝓮𝓵𝓵𝓸", "𝟙𝟚", "𐍈𐌰", "🀄",
)  # fmt: skip
SPECIAL = (
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|begin_of_text|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>",
    "<|end|>", "[INST]", "[/INST]", "<|fim_prefix|>", "<think>", "</think>", "<0x0A>", "<0xE2>", "[PAD]",
    "<unused0>", "<mask>", "Ġ", "Ċ",
)  # fmt: skip
SENTENCES = tuple(sentence.split(" ") for sentence in WORDS)
GROUPS = (WORDS, CODE, NUMBERS, SPACES, SYMBOLS, EMOJI, SPECIAL)


def probes(special: Sequence[str] = ()) -> tuple[str, ...]:
    """The 2,000 strings, all distinct. `special` are the special tokens to put into text, in place of common ones."""
    own = tuple(token for token in special if token) or SPECIAL
    texts = chain(_plain(), (_mixed(number, own) for number in count()))
    distinct: dict[str, None] = {}
    while len(distinct) < COUNT:
        distinct[unicodedata.normalize("NFC", next(texts))] = None
    return tuple(distinct)


def _plain() -> Iterator[str]:
    """The empty string, every part by itself, before a word and after one, and every word of the sentences."""
    yield ""
    yield from chain.from_iterable(GROUPS)
    for part in (*SPACES, *SYMBOLS, *EMOJI, *SPECIAL):
        yield f"{part}word"
        yield f"word {part}"
    yield from chain.from_iterable(SENTENCES)


def _mixed(number: int, special: Sequence[str]) -> str:
    """Two to nine parts in a row; SHA-256 of the number picks their groups, the parts and what joins them."""
    digest = hashlib.sha256(f"quantkit probe {number}".encode()).digest()
    groups = (SENTENCES, SENTENCES, SENTENCES, CODE, NUMBERS, SPACES, SYMBOLS, EMOJI, special)
    pieces = []
    for step in range(2 + digest[0] % 8):
        kind, pick, join = digest[1 + 3 * step : 4 + 3 * step]
        group = groups[kind % 9]
        part = group[pick % len(group)]
        if not isinstance(part, str):
            first = join % len(part)
            part = " ".join(part[first : first + 1 + kind // 64])
        pieces += [part, ("", " ", " ", "", "\n", "  ", ",", "")[join % 8]]
    return "".join(pieces)

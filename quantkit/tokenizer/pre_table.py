"""How llama.cpp splits text before byte-level BPE, by name, and which tokenizer.json sections mean the same.

`LLAMA_CPP` holds every byte-level name that llama.cpp accepts as `tokenizer.ggml.pre`, with its patterns and the
settings that come with the name (src/llama-vocab.cpp, October 2026: llm_tokenizer_bpe and llama_vocab::impl::load).
`RECOGNIZED` holds the pre-tokenizer sections of tokenizer.json files. Their patterns are those of the models that
the names stem from, as src/llama-vocab.cpp quotes them, and of BLOOM and DeepSeek.
"""

from __future__ import annotations

from quantkit.records import record

CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
LOWER_ASCII = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+"
UPPER_ASCII = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*"
LOWER_MARKS = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}\p{M}])([^a-z]))*((?=[\p{L}\p{M}])([^A-Z]))+"
UPPER_MARKS = r"[^\r\n\p{L}\p{N}]?((?=[\p{L}\p{M}])([^a-z]))+((?=[\p{L}\p{M}])([^A-Z]))*"
PUNCTUATED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
HALVING = "|".join(rf"\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
DEEPSEEK_LETTERS = (
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴ"
    "ᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-"
    "ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~！-／：-～‘-‟　-。]+"
# llama.cpp matches spaces beyond ASCII as if they were vertical tabs, so its class lacks the U+3000 at its end
DEEPSEEK_PUNCTUATION_LLAMA_CPP = "\\s?[!-/:-~！-／：-～‘-‟、-。]+"
DEEPSEEK_CJK = "[一-龥ࠀ-一가-퟿]+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
YOUTU = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
AFMOE_SCRIPTS = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
# Kimi: words without Han characters, which are words of their own
NO_HAN_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
NO_HAN_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{NO_HAN_UPPER}*{NO_HAN_LOWER}+{ANY_CASE}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{NO_HAN_UPPER}+{NO_HAN_LOWER}*{ANY_CASE}?|\p{{N}}{{1,3}}|{REST}"
)
FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"  # digits in threes, counted from the end of the number

CL100K = (rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{REST}",)
ONE_DIGIT = (rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{REST}",)
GPT_2 = (GPT2,)
DIGITS_GPT2 = (r"\p{N}", GPT2)
DEEPSEEK_V3 = (r"\p{N}{1,3}", CJK, rf"{PUNCTUATED}|{MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (
    rf"{LOWER_ASCII}{CONTRACTIONS}?|{UPPER_ASCII}{CONTRACTIONS}?|\p{{N}}{{1,3}}|{REST_SLASH}",
)  # fmt: skip
CASED = rf"{LOWER}{CONTRACTIONS}?|{UPPER}{CONTRACTIONS}?"
BAILING = (r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|" + rf"{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+",)  # fmt: skip


@record
class PreTokenizer:
    """What llama.cpp does under one name.

    Each of `patterns` in turn cuts every piece of the text into its matches and what lies between them; no patterns:
    code of its own. With `whole_words` a piece that is a token is taken without merging. `adds_bos`: a BOS token is
    put first unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


LLAMA_CPP: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        PreTokenizer(CL100K, whole_words=True, adds_bos=True),
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), PreTokenizer(CL100K)),
    **dict.fromkeys(("glm4", "glm5"), PreTokenizer(CL100K, whole_words=True)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open"),
        PreTokenizer(ONE_DIGIT),
    ),
    "qwen35": PreTokenizer((
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    )),
    "ufakzeka": PreTokenizer((rf"{WORD}|\p{{N}}|{REST}",)),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", *ONE_DIGIT)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", rf"{CONTRACTIONS}|{WORD}|\p{{N}}+|{REST}"), whole_words=True),
    "seed-coder": PreTokenizer((
        rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    )),
    "jais-2": PreTokenizer((
        rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{HALVING}",
    )),
    "exaone-moe": PreTokenizer((
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    )),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), PreTokenizer(BAILING)),
    **dict.fromkeys(
        (
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat",
            "a.x-4.0", "mellum", "modern-bert", "exaone4", "trillion", "granite-docling", "jina-v1-en",
            "jina-v2-code", "roberta-bpe",
        ),
        PreTokenizer(GPT_2),
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        PreTokenizer(DIGITS_GPT2),
    ),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]", GPT2,
        ),
        adds_bos=True,
    ),
    "deepseek-llm": PreTokenizer((
        "[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION_LLAMA_CPP, "\\s+$", DEEPSEEK_CJK, r"\p{N}+",
    )),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"), PreTokenizer(DEEPSEEK_V3)),
    "spark2_5": PreTokenizer((
        r"\p{N}{1,3}", CJK, rf"{PUNCTUATED}|{MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}",
    )),
    "afmoe": PreTokenizer((FROM_THE_RIGHT, AFMOE_SCRIPTS, DEEPSEEK_V3[-1])),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), PreTokenizer((BLOOM,))),
    "viking": PreTokenizer((BLOOM, r"\p{N}")),
    "tekken": PreTokenizer(
        (rf"{LOWER_ASCII}|{UPPER_ASCII}|\p{{N}}|{REST_SLASH}",), whole_words=True, adds_bos=True
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), PreTokenizer(O200K)),
    "granite-embed-multi-97m": PreTokenizer(
        (rf"{LOWER_MARKS}{CONTRACTIONS}?|{UPPER_MARKS}{CONTRACTIONS}?|\p{{N}}{{1,3}}|{REST_SLASH}",), whole_words=True
    ),
    **dict.fromkeys(
        ("tiny_aya", "cohere2moe"), PreTokenizer((FROM_THE_RIGHT, rf"{CASED}|\p{{N}}{{1,3}}|{REST_SLASH}"))
    ),
    "youtu": PreTokenizer((YOUTU, rf"{CASED}|\p{{N}}|{REST_SLASH}"), whole_words=True),
    "superbpe": PreTokenizer(()),
    "kimi-k2": PreTokenizer((KIMI.replace(r"\p{M}", ""),)),  # its own code knows letters, and no marks
}  # fmt: skip

Step = tuple[str, ...]
GPT2_STEP: Step = ("gpt2",)  # ByteLevel with its own pattern
EACH_DIGIT: Step = ("digits", "each")


def _split(*patterns: str) -> tuple[Step, ...]:
    return tuple(("split", pattern) for pattern in patterns)


@record
class Recognized:
    """A pre-tokenizer section, step by step (see pretokenizers.split_steps), and the name that splits alike.

    `whole_words` is the name for tokenizers that take a piece that is a token without merging (`ignore_merges`).
    `differs` says where llama.cpp is known to split otherwise, "" where it does not; `where` is a pattern that finds
    such text, "" if it takes comparing what the two patterns cut.
    """

    steps: tuple[Step, ...]
    name: str
    whole_words: str | None = None
    differs: str = ""
    where: str = ""


MARKS_AND_CASE = "words with combining marks, and words of other alphabets that change from small to capital letters"

RECOGNIZED: tuple[Recognized, ...] = (
    Recognized(_split(rf"{ANY_CASE}|{WORD}|\p{{N}}{{1,3}}|{REST}"), "dbrx", whole_words="llama-bpe"),
    Recognized(_split(rf"{ANY_CASE}|{WORD}|\p{{N}}|{REST}"), "qwen2"),
    Recognized((GPT2_STEP,), "gpt-2"),
    Recognized((EACH_DIGIT, GPT2_STEP), "smollm"),
    Recognized(_split(rf"{LOWER}{ANY_CASE}?|{UPPER}{ANY_CASE}?|\p{{N}}{{1,3}}|{REST_SLASH}"), "gpt-4o",
               differs=MARKS_AND_CASE),
    Recognized(_split(rf"{LOWER}|{UPPER}|\p{{N}}|{REST_SLASH}"), "tekken", differs=MARKS_AND_CASE),
    Recognized(
        _split(
            rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "qwen35",
    ),
    Recognized(_split(KIMI), "kimi-k2", differs=MARKS_AND_CASE),
    Recognized(_split(*DEEPSEEK_V3), "deepseek-v3"),
    Recognized(
        (*_split("[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, "\\s+$", DEEPSEEK_CJK), EACH_DIGIT), "deepseek-llm",
        differs="punctuation beside ideographic spaces", where="\u3000",
    ),
    Recognized((*_split(*LLAMA_CPP["deepseek-coder"].patterns[:-1]), EACH_DIGIT), "deepseek-coder"),
    Recognized(
        (("punctuation", "Contiguous"), GPT2_STEP, ("digits", "runs"), ("split", "[0-9][0-9][0-9]")), "falcon"
    ),
    Recognized(_split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), "bloom"),
    Recognized(_split(rf"{WORD}|\p{{N}}|{REST}"), "ufakzeka"),
    Recognized(
        _split(rf"{ANY_CASE}|{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"), "seed-coder"
    ),
    Recognized(
        _split(
            rf"{ANY_CASE}|{WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{HALVING}"
        ),
        "jais-2",
    ),
    Recognized(
        _split(
            rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        "exaone-moe",
    ),
    Recognized(
        _split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        "bailingmoe",
    ),
    Recognized(_split(r"\p{N}{1,3}", rf"{ANY_CASE}|{WORD}|\p{{N}}+|{REST}"), "minicpm5", whole_words="minicpm5"),
)  # fmt: skip

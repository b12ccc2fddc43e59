"""Memory of devices by the names that people give them, for `plan --fit`.

Graphics cards and accelerators: the sizes of the vendors' product pages (NVIDIA: GeForce, RTX and data center pages;
AMD: Radeon and Instinct pages; Intel: Arc pages), which count in powers of 1024. Macs share their memory: Metal's
recommendedMaxWorkingSetSize gives the GPU two thirds of it up to 32 GB and three quarters beyond (llama.cpp prints it
when it starts: 10922.67 MiB of 16 GB, 49152.00 MiB of 64 GB).
"""

from __future__ import annotations

import re

from quantkit.errors import UsageError, did_you_mean
from quantkit.units import GRAMMAR, parse_size

GIB = 1 << 30
MEGABYTE = 10**6

# GiB; several where a name was sold with several sizes: then the size has to be said.
CARDS: dict[str, tuple[int, ...]] = {
    "rtx2060": (6, 12), "rtx2070": (8,), "rtx2080": (8,), "rtx2080ti": (11,),
    "rtx3050": (6, 8), "rtx3060": (8, 12), "rtx3060ti": (8,), "rtx3070": (8,), "rtx3070ti": (8,),
    "rtx3080": (10, 12), "rtx3080ti": (12,), "rtx3090": (24,), "rtx3090ti": (24,),
    "rtx4060": (8,), "rtx4060ti": (8, 16), "rtx4070": (12,), "rtx4070super": (12,), "rtx4070ti": (12,),
    "rtx4070tisuper": (16,), "rtx4080": (16,), "rtx4080super": (16,), "rtx4090": (24,),
    "rtx5060": (8,), "rtx5060ti": (8, 16), "rtx5070": (12,), "rtx5070ti": (16,), "rtx5080": (16,), "rtx5090": (32,),
    "gtx1060": (3, 6), "gtx1070": (8,), "gtx1080": (8,), "gtx1080ti": (11,), "gtx1650": (4,), "gtx1660": (6,),
    "rtxa4000": (16,), "rtxa5000": (24,), "rtxa6000": (48,), "rtx6000ada": (48,),
    "t4": (16,), "p100": (12, 16), "v100": (16, 32), "a10": (24,), "a10g": (24,), "a40": (48,), "a100": (40, 80),
    "l4": (24,), "l40": (48,), "l40s": (48,), "h100": (80,), "h200": (141,), "b200": (180,),
    "rx6700xt": (12,), "rx6800": (16,), "rx6800xt": (16,), "rx6900xt": (16,), "rx7600": (8,), "rx7600xt": (16,),
    "rx7700xt": (12,), "rx7800xt": (16,), "rx7900gre": (16,), "rx7900xt": (20,), "rx7900xtx": (24,),
    "rx9060xt": (8, 16), "rx9070": (16,), "rx9070xt": (16,), "mi210": (64,), "mi250x": (128,), "mi300x": (192,),
    "arca770": (8, 16), "arcb570": (10,), "arcb580": (12,),
}  # fmt: skip
MACS = {
    "m1": (8, 16), "m1pro": (16, 32), "m1max": (32, 64), "m1ultra": (64, 128),
    "m2": (8, 16, 24), "m2pro": (16, 32), "m2max": (32, 64, 96), "m2ultra": (64, 128, 192),
    "m3": (8, 16, 24), "m3pro": (18, 36), "m3max": (36, 48, 64, 96, 128), "m3ultra": (96, 256, 512),
    "m4": (16, 24, 32), "m4pro": (24, 48, 64), "m4max": (36, 48, 64, 128),
}  # fmt: skip
LARGEST_OF_TWO_THIRDS = 32
MAKERS = re.compile(r"nvidia|geforce|radeon|instinct|intel|apple|macbook|amd|[^a-z0-9]")
SIZED = re.compile(r"(.*?[^\s_-])[\s_-]+(\d{1,3})\s*gi?b?")


def memory_for(text: str, option: str = "--fit") -> int:
    """Bytes that `--fit`, or another `option`, means: a size with its unit, or a device such as "rtx4090",
    "RTX 3060 12GB" or "m2-16gb".

    Raises UsageError for a number without a unit, for an unknown device with the nearest one, and for a device that
    was sold with several sizes, or never with this one.
    """
    if f"rtx{text.strip()}" not in CARDS and re.fullmatch(r"[\s\d._]+(?:[KMGT]?i?B?)\s*", text, re.IGNORECASE):
        return parse_size(text, option, least=MEGABYTE)
    found = SIZED.fullmatch(text.strip().lower())
    name, gib = (found[1], int(found[2])) if found else (text.lower(), 0)
    word = name = MAKERS.sub("", name)
    name = name if name in CARDS or name in MACS else f"rtx{name}"
    sizes = CARDS.get(name) or MACS.get(name)
    if sizes is None:
        near = did_you_mean(word, [*CARDS, *MACS])
        hint = f"a size such as 24GB ({GRAMMAR}), or a device such as rtx4090, a100-80gb, m2-16gb"
        raise UsageError(
            f'{option} "{text[:40]}" is neither a size nor a known device{near}', hint=hint, key=option[2:]
        )
    if gib not in sizes and (gib or len(sizes) > 1):
        said = " or ".join(f'"{name}-{size}gb"' for size in sizes)
        raise UsageError(
            f'{option} "{text[:40]}": which size?', hint=f"say {said}, or a size such as 24GB", key=option[2:]
        )
    gib = gib or sizes[0]
    if name in CARDS:
        return gib * GIB
    return gib * GIB * 2 // 3 if gib <= LARGEST_OF_TWO_THIRDS else gib * GIB * 3 // 4

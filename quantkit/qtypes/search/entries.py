"""The loops of this package that others call, each by its module and its name.

Whoever calls one whose machine code is on the disk imports neither that module nor numba.
"""

from __future__ import annotations

from quantkit.qtypes.kept import Loop, loop


def _loop(module: str, name: str) -> Loop:
    return loop(f"{__package__}.{module}", name)


search_levels = _loop("codebook", "search_levels")
descent_codes = _loop("descent", "descent_codes")
search_descent = _loop("descent", "search_descent")
search_ends = _loop("ends", "search_ends")
descend = _loop("feedback", "descend")
sweep = _loop("feedback", "sweep")
mxfp4_exponents = _loop("fp4_loops", "mxfp4_exponents")
round_mxfp4 = _loop("fp4_loops", "round_mxfp4")
round_nvfp4 = _loop("fp4_loops", "round_nvfp4")
magnitudes = _loop("lattice_loops", "magnitudes")
neighbours = _loop("lattice_loops", "neighbours")
odd_units = _loop("lattice_loops", "odd_units")
search_points = _loop("lattice_loops", "search_points")
weigh = _loop("lattice_loops", "weigh")
search_offset = _loop("offset", "search_offset")
pack_blocks = _loop("plane_loops", "pack_blocks")
unpack_plane = _loop("plane_loops", "unpack_plane")
refit_counts = _loop("refitting", "refit_counts")
refit_units = _loop("refitting", "refit_units")
cut_to_planes = _loop("rounding", "cut_to_planes")
levels_to_planes = _loop("rounding", "levels_to_planes")
nearest_codes = _loop("rounding", "nearest_codes")
products = _loop("rounding", "products")
proportional_codes = _loop("rounding", "proportional_codes")
round_to_planes = _loop("rounding", "round_to_planes")
signed_units = _loop("rounding", "signed_units")
search_signed = _loop("signed", "search_signed")
best_units = _loop("ternary_loops", "best_units")
search_ternary = _loop("ternary_loops", "search_ternary")
square_sums = _loop("tiles", "square_sums")
search_unsigned = _loop("unsigned", "search_unsigned")
descend_vectors = _loop("vector_feedback", "descend_vectors")
sweep_vectors = _loop("vector_feedback", "sweep_vectors")

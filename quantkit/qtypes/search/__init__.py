"""The weighted scale searches that the K, IQ4 and legacy types share, and the way from a search to bytes.

    blocks.py    a matrix, slab by slab, through a type's choice of scales and codes
    scales.py    the searches on arrays: groups of weights in, scales out
    planes.py    codes in, bit planes out, and back

    superblocks.py, legacy.py    what several types share between search and bytes

are plain numpy at the surface and import the compiled loops beneath them when they are first called:

    compilation.py   how they are compiled, and when the result may be used again
    lanes.py     vectors of float32 as numba values: one lane, one group
    tiles.py     groups arranged in lanes, their weights, ordered sums
    offset.py    search C: scale and minimum          signed.py      searches A and B: one signed scale
    unsigned.py  search D: the scales' own scale      codebook.py    scales for a fixed table of levels
    rounding.py  from scales to codes                 plane_loops.py the loops of planes.py

Searches are called A to D as in the order ggml-quants.c defines them: make_qx_quants, make_q3_quants,
make_qkx2/3_quants, make_qp_quants. Results equal it bit for bit on x86-64, where it is compiled without fused
multiply-adds; on other hosts these loops still give the x86-64 bytes.
"""

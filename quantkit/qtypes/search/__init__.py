"""The weighted scale searches that the K, IQ4 and legacy types share, and the way from a search to bytes.

Plain numpy at the surface, which calls the compiled loops beneath it by entries.py:

    blocks.py        a matrix, slab by slab, through an encoder
    scales.py        the searches on arrays: groups of weights in, scales out
    planes.py        codes in, bit planes out, and back
    superblocks.py   what the K types and iq4_xs share; legacy.py: what q4_0, q4_1, q5_0 and q5_1 share
    lattice.py       sets of vectors, listed in lattice_points.py; lattice_types.py: what the types share that store
                     numbers of these vectors; lattice_signed.py: IQ2 and IQ3, lattice_ternary.py: IQ1

    compilation.py   how loops are compiled
    lanes.py         vectors of float32 as numba values: one lane, one group; octets.py: codes as bytes
    tiles.py         groups arranged in lanes, their weights, ordered sums
    signed.py        search A: one signed scale; descent.py: search B, the same with codes changed one by one
    offset.py        search C: scale and minimum
    unsigned.py      search D: the scale of the scales
    codebook.py      the scale of codes that index a table of levels
    lattice_loops.py, ternary_loops.py   points of a lattice, a scale and signs (IQ2, IQ3) or shifts (IQ1)
    fp4_loops.py     four-bit floats (fp4.py): MXFP4, NVFP4
    rounding.py      from scales to codes; plane_loops.py: from codes to bit planes

The letters follow ggml-quants.c: A make_qx_quants, B make_q3_quants, C make_qkx2_quants and make_qkx3_quants, D
make_qp_quants. Results equal theirs bit for bit as compiled for x86-64, without fused multiply-adds; on other hosts
these loops still give the x86-64 bytes.
"""

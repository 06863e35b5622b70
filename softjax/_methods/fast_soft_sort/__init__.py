"""Projection onto the permutahedron (Blondel et al., arXiv:2002.08871), by an isotonic regression of sorted keys.

The permutahedron P(b) is the convex hull of all permutations of b. With a and b ascending, the point of P(b) that is
nearest to a is, with blocks B of neighbours over which a - b is pooled to an ascending sequence,

    y_i = a_i - mean_B(a) + mean_B(b).

`sort` projects anchors, linspace(0, 1) / softness, onto the permutahedron of the keys; `rank` projects keys / softness
onto that of linspace(0, 1), and counts these from 0 to n - 1. Neither has a soft permutation: no indices.
"""

"""SoftSort in the modes c0, c1, c2 (m = 1, 2, 3) in O(n) memory, without n x n work.

Notation: `s` (..., n) ascending, `tau` (..., 1), x_ij = R_i - |s_i - s_j| where that is positive, else 0.
Row i of P is x_ij^m / Z_i with Z_i = sum_j x_ij^m, and R_i in (0, tau] makes Z_i = tau^m: R is tau times the threshold
of the simplex projection. All lengths stay in the unit of the keys, so that s_j - s_i is a difference of two floats
and loses nothing; keys and tau are first scaled by one power of two, which keeps powers of lengths in range.

Everything is one kind of sum over the window of a row, or over the rows whose window holds a column (`passes.Term`):

    sum x_ij^p sign(j - i)^odd g_j        and its relative form, with kappa_j + g_j (h_j - h_i) for g_j.

The relative form keeps the digits of a payload that is large where the window is narrow. Sums are of one side, j > i
(`moments.OneSide`); the other side is the mirror image, and both are one batch.

Windows are intervals with monotone ends s_i - R_i, s_i + R_i (R is 1-Lipschitz in s_i), so the rows that hold a column
are an interval too. There are three ways to sum over them:

- Narrow windows are walked along the diagonals in tiles, element by element, until no window of the tile reaches
  further (`walk.py`).
- In wide windows of long rows (more than `passes.LIMITS.walked` elements to one side, of more than `passes.LIMITS.row`)
  x_ij = t_i - z_j is a polynomial, with targets t and places z: t = s + R and z = s for rows, t = s and z = s - R for
  columns. So moments of the z_j serve. On a CPU the windows slide over the elements one by one (`sliding.py`).
- Elsewhere they are cut at blocks of 32 elements (`table.py`). The own block is walked; beyond it serve moments of the
  last, partial block from its start to every element, and those of the whole blocks between from a disjoint sparse
  table, which splits blocks low..high into a suffix and a prefix of two runs of 2^level blocks, level the highest bit
  in which low and high differ.

Moments are about the right end of their elements and move to the right only, by binomial sums of terms of one sign:
nothing cancels, and nothing outside the window is ever subtracted.

`lax.cond` picks for the whole batch at run time. It stays a branch under vmap because the primitive of
`softjax._primitive` flattens mapped axes into the batch.

R comes from Newton on the m-norm of x_i, from an upper bound that is within a factor of two for evenly spread keys.
For moments the iterates are lowered where their windows' ends would not be monotone.

Derivatives. dx_ij = dR_i - sign(j - i) (ds_j - ds_i), by index, so that a tie is differentiated from one side; and
dR_i follows from Z_i = tau^m. With c_i = sum_j x_ij^(m-1) v_j / sum_j x_ij^(m-1), the centre,

    dy_i = sum_j P_ij dv_j + m (c_i - y_i) dtau / tau
           - (m / Z_i) sum_j x_ij^(m-1) sign(j - i) (ds_j - ds_i) (v_j - c_i).

This and its transpose are one operator each (`rules.py`), and so are P^T w and its cotangents, which are those of
sum(w * P g) for a cotangent g; higher orders go through the sums above, which are closed
under differentiation: p falls by one and odd flips.
"""

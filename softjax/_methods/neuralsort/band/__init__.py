"""NeuralSort in O(n) memory, with work proportional to the band of its matrix.

Notation: `s` (..., n) ascending, `tau` (..., 1) the softness, rows r = 0..n-1 (ascending rank),
columns j = 0..n-1 (sorted position), g_j = (s_{j+1} - s_j) / tau >= 0.

The row logits ((2r + 1 - n) s_j - sum_i |s_i - s_j|) / tau differ between neighbours by
(2r - 2j - 1) g_j, so they peak at j = r. Everything here works with the *drop* from that peak,

    D_r(r + k) = -sum_{t<k} (2t + 1) g_{r+t},        D_r(r - k) = -sum_{t<k} (2t + 1) g_{r-1-t},

a sum of terms of one sign: it has a small relative error in float32 at every n, where the raw
logits (of size n * range / tau) have none of their digits left. With theta_r the row's
normaliser, P_rj = phi(D_r(j) - theta_r), and phi = exp (smooth) or max(., 0)^m (c0, c1, c2: m = 1, 2, 3).

The matrix is walked along its diagonals. A tile of consecutive rows holds D at offset k; the
next offset is one shifted multiply-add, with no gather. Walking by columns (for P^T) needs the
distance X_k = (s_j - s_{j-k}) / tau as well: D_{j-k-1}(j) = D_{j-k}(j) - X_k - X_{k+1}.
A tile stops when a proven bound says that nothing beyond can change a float.

Batch rows are laid end to end with an unbridgeable gap between them, so one loop serves every
(batch, n), and a tile may hold many short rows.

Derivatives. P depends on s through D alone, D is linear in s, and theta keeps every row sum at 1:
    dy_r = sum_j P_rj dv_j + sum_j phi'_rj dD_rj (v_j - c_r),   c_r = sum_j phi'_rj v_j / sum_j phi'_rj.
P v, P^T w, these tangents and their transposes are linear operators bound to one primitive
(`softjax._primitive`); their own derivatives go through higher derivatives of phi by the same operators, so
every order and every mix of forward and reverse mode works (`rules.py`).
"""

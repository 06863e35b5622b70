"""SoftSort in the modes c0, c1, c2 (m = 1, 2, 3) without the n x n matrix. Derivation to come."""

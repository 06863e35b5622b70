"""What the kernels of methods that compare pairs of elements share: programs over tiles, and the maths inside."""

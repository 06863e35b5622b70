"""The kernels by method, and what they serve."""

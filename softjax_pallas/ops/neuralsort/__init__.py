"""NeuralSort by kernels: rows of P, its band times a payload, and ranks."""

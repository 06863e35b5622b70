"""SoftSort by kernels: rows of P."""

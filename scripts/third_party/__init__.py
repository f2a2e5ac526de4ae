"""Which modules of other JAX packages equal PyTorch's: checked by parity, written as a table."""

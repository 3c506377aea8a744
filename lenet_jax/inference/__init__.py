"""A trained network: loading it, asking it, and its PyTorch form."""

"""A trained network: loading it, predicting with it, its figures, and its form in PyTorch."""

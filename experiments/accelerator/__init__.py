"""What a GPU or TPU computes, how fast, and how far from float64: see `__main__`."""

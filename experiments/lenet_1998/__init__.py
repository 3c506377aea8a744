"""The study of the networks of 1998: `python -m experiments.lenet_1998`."""

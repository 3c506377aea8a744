"""The corruptions of MNIST-C, drawn on the device: each a function of a random key and an image.

Written from the published description, with its severities; what it leaves open is said where it
is chosen. Pixels are in [0, 1], light on dark. Lengths are those of images of 28×28 pixels; images
of other sizes get the same lengths in pixels, and lines and stripes from edge to edge.

Source: Mu, Gilmer, "MNIST-C: a robustness benchmark for computer vision", 2019, appendix B; after
Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", 2019.
"""

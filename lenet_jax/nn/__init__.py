"""The network: layers as functions of arrays, their CPU kernels, and their gradients."""

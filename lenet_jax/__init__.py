"""LeNet-class networks in JAX: trained, swept and understood."""

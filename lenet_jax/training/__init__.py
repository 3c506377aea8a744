"""Training as pure functions of arrays: batches, optimisers, steps, epochs, populations."""

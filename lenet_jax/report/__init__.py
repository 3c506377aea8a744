"""The HTML report of what a network has learned."""

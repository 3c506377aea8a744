"""Compares what the package computes with independent oracles."""

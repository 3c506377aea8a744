"""Bytes on disk: run and sweep directories, checkpoints, weights, event files."""

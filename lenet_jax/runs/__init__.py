"""One training run: its loop over epochs, how it resumes, and the figures it leaves."""

"""The user interface: progress, signals, command-line arguments."""

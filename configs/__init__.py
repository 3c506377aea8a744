"""Experiment configs. Each is a Python file whose `get_config(arg)` returns a ConfigDict."""

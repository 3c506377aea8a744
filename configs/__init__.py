"""Experiment configs: Python files whose `get_config(arg)` returns a ConfigDict."""

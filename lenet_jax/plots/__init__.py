"""Figures: the drawing style, and the views of a run, its filters and a sweep."""

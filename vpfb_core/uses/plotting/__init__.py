"""Plots as PNG files. matplotlib is imported only when a plot is drawn, and its global state is not changed."""

"""Variational Potential Flow Bayes: the potential, its losses, its normaliser and its field."""

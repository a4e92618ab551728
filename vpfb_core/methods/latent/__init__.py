"""Energies of data and codes that are trained by particles, after Tang et al. 2025 (arXiv 2510.15447)."""

"""Solvers of ODEs, Markov chains and ladders of noise levels. Nothing here knows a training method."""

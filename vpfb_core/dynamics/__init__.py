"""Solvers of ODEs and Markov chains; nothing here knows a training method."""

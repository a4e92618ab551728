"""Statistics of samples: their gap to those of real data, and models that are changed to have given statistics."""

"""Statistics of samples and of data: their names, their masks, and the gaps between their means."""

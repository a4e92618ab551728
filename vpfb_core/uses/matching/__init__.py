"""Models that are changed so that their samples have given means of statistics."""

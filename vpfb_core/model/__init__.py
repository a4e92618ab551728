"""Trained models: their content, their files and the run folders they come from."""

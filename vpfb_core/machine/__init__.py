"""Devices, processes, files, seeded noise and the container format. Nothing here knows a model or a method."""

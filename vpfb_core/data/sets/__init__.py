"""The data sets that have a name.

Each module here lists its own in `SETS`, a tuple of `NamedSet`. A new file is all that a new data set takes:
`vpfb_core.data.catalogue` finds it.
"""

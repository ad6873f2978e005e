"""Grids of a user's own networks: any architecture, trained by functions that a spec names.

`spec` has the keys of [network], `data` the data, `runs` builds and trains one network, and `source` lists what a
grid trains and measures.
"""

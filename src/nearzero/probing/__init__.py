"""A user's model and data: layers found, hooked and cut, states restored, batches read.

`nearzero.probing.loading` finds models, weights and data by name.
"""

"""Compiled loops for the processor: the type they are written in, and the products that they fuse.

They know arrays and nothing else: no networks, no studies. What calls them checks the arrays first.
"""

"""Compiled loops for the processor, and the vector type in which they are written.

Kernels take arrays only, no networks or studies, and don't check them: their callers do.
"""

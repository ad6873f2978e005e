"""The page of a probe.

`page` lays out its sections. `cells` arranges what was measured for the script, by layer, family and level; `items`
chooses the examples or tokens that are embedded.
"""

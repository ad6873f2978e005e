"""Tables and figures of a study. A report reads results and never computes a sweep.

`results` reads a study; `comparison` sets measured numbers beside published ones; `tables` (with `verdict`,
`near_far`, `grids` and `audit`) builds tables, and `render` prints them; `figures` draws, and `captions` explains the
figures; `write` puts everything on disk and on the screen. Importing `write` imports neither matplotlib nor
rich.
"""

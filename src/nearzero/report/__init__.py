"""Tables and figures of a study: it reads, and computes no sweep.

`results` is all that it knows of a study; `comparison` sets the published numbers beside ours; `tables`
builds the tables, `captions` explains them and `render` shows them; `figures` draws; `write` puts it all on
disk and on the screen. Importing `write` imports neither matplotlib nor rich.
"""

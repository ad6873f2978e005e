"""Tables and figures of a study: it reads, and computes no sweep.

`results` is all that it knows of a study; `comparison` sets the published numbers beside ours; `tables`
builds the tables and `render` shows them; `figures` draws and `captions` explains what; `write` puts it all on
disk and on the screen. Importing `write` imports neither matplotlib nor rich.
"""

"""One self-contained HTML page for a result: it opens from disk, without a network.

`document` puts a page together: sections, the page's own script and style, the charting library, and the rule that
forbids the network. `arrays` embeds arrays, `charts` describes charts. `study` says what the page of a study holds,
`explorer` computes what its unit explorer needs, and `probe` makes the page of a probe. `assets/` holds scripts and
styles, ready for the browser.
"""

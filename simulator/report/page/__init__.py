"""One HTML page about a run: verdict, tables, charts and provenance in a file that loads nothing.

`write` renders page.html.j2 with what `words`, `tables` and `charts` make of a result; `axes` turns numbers into places.
"""

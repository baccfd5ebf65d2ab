"""The report and its output formats: what the rooms below found, in words, JSON, HTML and XML.

A report is a value (`model.Report`) made once by `document.compose`; every format draws from it.
Nothing here looks at a guest.
"""

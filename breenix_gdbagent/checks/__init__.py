"""The checks: each looks at one subject of a stop, distrusts what it reads, and yields findings.

`checks.examine` runs them all. A finding holds typed facts (`checks.facts`) and no sentence; its
code is declared beside the check that finds it.
"""

"""The sentences about findings: a module for each family of checks, a function for each sort of
facts. `report/sentences.py` brings them together.

A code whose facts have no function here is told by its title, where it is and its facts.
"""

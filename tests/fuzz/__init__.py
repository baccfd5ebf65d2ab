"""What reads bytes that others wrote, given bytes that nobody meant (see `tests.fuzz.target`).

``python -m tests.fuzz NAME`` looks for inputs by coverage (needs the extra ``[fuzz]``);
`tests.unit.test_fuzz` gives each parser the inputs that are kept, and needs nothing.
"""

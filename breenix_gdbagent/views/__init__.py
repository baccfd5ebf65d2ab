"""What has to be known of a stop before it can be drawn: matrices, maps, traces, as values.

Everything that walks page tables, unwinds stacks, disassembles or reads the kernel's structures for
the sake of showing it happens here, once; report/ turns these values into text, JSON and HTML and
looks at no guest.
"""

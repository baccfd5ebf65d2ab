"""Expressions of the user's on a stopped CPU: values of the kernel, registers, memory, places in
the code and the source."""

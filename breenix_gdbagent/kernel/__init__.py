"""Breenix's own structures, read out of one stop: address spaces, stacks, threads, allocators.

Readers trust what they read and raise `ReadError` where it cannot be had; whether it is right is
for `checks/` to say. Of another kernel they find what any x86-64 kernel has: roots, tables, gates.
"""

"""A stop in a file and out of it: a snapshot of ours, QEMU's own ELF core, a raw copy of RAM.

A snapshot is an ELF core as QEMU writes it, with one note more (`snapshot.note`), so that gdb,
readelf and whatever reads QEMU's cores opens it.
"""

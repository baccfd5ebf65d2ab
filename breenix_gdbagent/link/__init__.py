"""The links to QEMU: its gdbstub (RSP), its monitor (QMP), serial lines, and the process itself.

Nothing here knows a kernel: bytes, packets, registers and physical memory.
"""

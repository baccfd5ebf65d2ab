"""The page-fault matrix: what the tables predict against what this machine's QEMU does.

On the lab guest, once its work is done: page tables for every case are written into unused RAM, a
verdict is predicted for each from the tables alone, and only then the CPU makes each access, one
instruction at a time.
"""

"""Code by which a CPU enters and leaves the kernel, read out of the ELF as the CPU would run it.

`entries` finds it, `follow` goes every path of one entry with abstract values, `lint` judges what
was seen there.
"""

"""The Python API: what ``import breenix_gdbagent as ba`` gives.

`vm` is a guest under run control, `stops` what can be asked of a stopped one, live or out of a
file. Nothing here prints.
"""

"""Run control that is no user interface: breakpoints with conditions, checkpoints, invariants,
watched page-table entries, steps by source line, and the bridge for the user's own gdb.

Nothing here changes guest memory. The modules are imported one by one: `expressions` and `values`
are cheap, `judge` and `written` bring the checks
along.
"""

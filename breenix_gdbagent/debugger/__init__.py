"""Run control of one guest: the debugger, and what uses it: guarded runs, steps, the gdb bridge.

`debugger.Debugger` runs the guest, counts hits and makes stops. `guarded_run` (for `ci` and
`snapshot`), `stepping` (the step commands) and `gdb_bridge` (the user's own gdb) drive that one
object; `arbiter` gives it to one of them at a time. Nothing here changes guest memory.
"""

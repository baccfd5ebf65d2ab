"""Tests of breenix_gdbagent.symbols."""

"""breenix_gdbagent: tells why the Breenix kernel faulted, from outside."""

__version__ = "0.1.0"

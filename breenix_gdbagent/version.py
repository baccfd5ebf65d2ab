"""Which agent this is: in every report, and in every snapshot that keeps one."""

VERSION = "0.2.0.dev0"

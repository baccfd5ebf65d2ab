"""Which agent this is: in every report, and in every snapshot that keeps one."""

VERSION = "0.1.0"

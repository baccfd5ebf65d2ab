"""The exceptions that the manuals name: vector, mnemonic, name, whether an error code is pushed.

The one table of them. Sources: Intel SDM vol. 3, table 6-1; AMD64 APM vol. 2, table 8-1, for 28 to
30, which Intel reserves.
"""

from __future__ import annotations

EXCEPTIONS = (
    (0, "#DE", "divide error", False),
    (1, "#DB", "debug", False),
    (2, "NMI", "non-maskable interrupt", False),
    (3, "#BP", "breakpoint", False),
    (4, "#OF", "overflow", False),
    (5, "#BR", "bound range exceeded", False),
    (6, "#UD", "invalid opcode", False),
    (7, "#NM", "device not available", False),
    (8, "#DF", "double fault", True),
    (10, "#TS", "invalid TSS", True),
    (11, "#NP", "segment not present", True),
    (12, "#SS", "stack-segment fault", True),
    (13, "#GP", "general protection", True),
    (14, "#PF", "page fault", True),
    (16, "#MF", "x87 floating-point error", False),
    (17, "#AC", "alignment check", True),
    (18, "#MC", "machine check", False),
    (19, "#XM", "SIMD floating-point exception", False),
    (20, "#VE", "virtualization exception", False),
    (21, "#CP", "control protection", True),
    (28, "#HV", "hypervisor injection", False),
    (29, "#VC", "VMM communication", True),
    (30, "#SX", "security", True),
)
"""What is not here has no error code: interrupts and ``int n``."""

VECTOR_NAMES = {vector: mnemonic for vector, mnemonic, _, _ in EXCEPTIONS}
WITH_ERROR_CODE = frozenset(vector for vector, _, _, pushed in EXCEPTIONS if pushed)

ORDINARY_VECTORS = frozenset({1, 2, 3})
"""An event at these (#DB, NMI, #BP) is how a kernel or its debugger works, not a fault of it."""

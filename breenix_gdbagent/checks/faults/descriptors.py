"""Finding codes of the tables that delivering an exception needs: IDT, GDT, TSS."""

from __future__ import annotations

from breenix_gdbagent.checks.finding import declare

GATE_MISSING = declare(
    "idt.gate-missing",
    "warning",
    "the IDT has no usable gate for a vector",
    arises="The kernel installs no gate for that vector, so that its exception has nowhere to go. "
    "A warning until an event needs the gate; then it becomes #NP or #GP, and often a double "
    "fault.",
    confirm="The entry at IDTR.base + 16 * vector: P (bit 47) and type 0xE or 0xF (bits 43:40).",
    mend="Install a handler for every vector below 32, if only to print and halt.",
)
HANDLER_UNMAPPED = declare(
    "idt.handler-unmapped",
    "error",
    "the IDT, or a handler that it leads to, cannot be reached",
    arises="The IDT was not loaded on this CPU, or its page is not mapped. Or the page of a "
    "handler is not mapped (or not executable) in the space that the exception came from: a "
    "process PML4 that lacks the kernel image, or a gate overwritten.",
    confirm="IDTR (info registers), pt walk IDTR.base and pt walk HANDLER --root CR3.",
    mend="Load IDTR on every CPU before anything can fault there. Share the kernel image's "
    "top-level entry with every process, and check the gate's offset against the handler's symbol.",
)
GDT_UNMAPPED = declare(
    "gdt.unmapped",
    "error",
    "a segment descriptor that the CPU needs is not there",
    arises="The GDT's page is not mapped under CR3, GDTR points elsewhere, or the selector lies "
    "beyond its limit: no exception can be delivered any more, because each loads CS.",
    confirm="pt walk GDTR.base --root CR3.",
    mend="Keep the GDT in the kernel image, load GDTR with its final address, and map that page "
    "in every address space.",
)
RSP0_INVALID = declare(
    "tss.rsp0-invalid",
    "error",
    "TSS.RSP0 is no usable kernel stack",
    arises="RSP0 was never set, or computed from an RSP instead of taken from the thread: the "
    "next interrupt from ring 3 pushes its frame onto nothing.",
    confirm="The 8 bytes at TR.base + 4, and pt walk RSP0-8.",
    mend="Set RSP0 from the top of the thread's kernel stack at every switch.",
)

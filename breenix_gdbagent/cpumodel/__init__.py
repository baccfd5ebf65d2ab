"""A model of the x86-64 CPU: which exception an instruction raises and how it is delivered.

It rests on registers, page tables and memory alone and knows nothing of any kernel. `prediction`
says what the instruction at RIP raises, `delivery` plays an exception forward through IDT, TSS and
stacks, and `explanation` finds the first event whose course ends in what the CPU was seen to do.
"""

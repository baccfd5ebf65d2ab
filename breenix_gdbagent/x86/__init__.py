"""x86-64 as the manuals have it: paging, descriptors, exceptions. Knows nothing of Breenix."""

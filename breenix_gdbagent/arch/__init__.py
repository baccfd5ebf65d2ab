"""The words that two architectures share: CPUs by names, walks, spaces, traps. What reads a stop
asks an `Arch`, and no processor's manual."""

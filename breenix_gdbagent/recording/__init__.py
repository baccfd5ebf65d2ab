"""A run that is kept whole: recorded by QEMU's instruction counter into one directory, and played
again as often as one likes, always the same."""

"""The analyzers: they distrust the guest and yield findings. One file per subject.

`checks.examine` runs them all; each declares its codes beside their explanation.
"""

"""The pages, and under `generate` the program that writes those of `reference/` from the code."""

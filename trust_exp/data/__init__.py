"""Data sets: batches from memory, and data prepared, imported or generated. Importing this alone loads no torch."""

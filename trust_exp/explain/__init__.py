"""Explanations of what a network computes, as plain functions and modules."""

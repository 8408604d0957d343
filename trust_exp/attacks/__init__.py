"""Attacks on any classifier: APGD with one radius per image, and the official AutoAttack."""

"""Attacks on any classifier: PGD, APGD with one radius per image, and AutoAttack."""

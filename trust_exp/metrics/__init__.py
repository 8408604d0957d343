"""Numbers that say something of samples and of predictions: plain functions of tensors."""

"""Measures of samples and predictions: plain functions of tensors."""

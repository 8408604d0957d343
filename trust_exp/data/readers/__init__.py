"""Readers of file formats, and of the samples of a stream: a class, a map or boxes for each image."""

"""Augmentation on device: crops, colours and blur of one image, and policies for a batch."""

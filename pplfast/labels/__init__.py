"""CAMs of a classifier, and pseudo labels from CAMs.

Nothing is imported here: the worker processes of the CRF import this package and start without torch.
"""

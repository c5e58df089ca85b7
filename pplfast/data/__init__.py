"""Data sets: which images, where they are, what is in them; their check and the demo set.

Nothing is imported here: the command line reads the options of a data set without numpy and PIL.
"""

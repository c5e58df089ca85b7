"""A trained segmentation network on new images, of which nothing but the pixels is known.

network.py: which network a path means. sources.py: files, folders, patterns, lists and shards as one data set.
folder.py: the job, and what stands beside the labels. page.py: the page of the drawings. single.py: images in Python.
"""

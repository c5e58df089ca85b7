"""A segmentation network as a file that runs without pplfast.

network.py: the module that is exported. program.py: as a torch.export program. onnx_file.py: as ONNX. check.py: that
the file computes what pplfast does. about.py: what is known of a network. card.py: its model card. export.py: all of it
into a folder.
"""

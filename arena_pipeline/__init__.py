"""ARENA: few-shot adaptation of pre-trained 3D segmentation foundation models to CT structures."""

__version__ = "0.1.0"

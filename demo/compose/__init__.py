"""Labelled pictures: stickers pasted on photographs, made anew from a seed."""

from demo.classes import class_names
from demo.compose.pack import Split
from demo.compose.scene import Composer, Scene

CLASS_NAMES = class_names()

__all__ = ["CLASS_NAMES", "Composer", "Scene", "Split"]

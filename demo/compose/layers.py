"""Who is in front of whom: masks of the objects while a scene is built up."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from demo.compose.pasting import Footprint

# an object is dropped from the labels when less than this of it is seen
_LEAST_VISIBLE: Final = 0.3
_LEAST_PIXELS: Final = 36
# nothing may be pasted that hides more than this of an earlier object, all covers together
_MOST_HIDDEN: Final = 0.55


@dataclass(slots=True)
class PlacedObject:
    """One labelled object.

    Attributes:
        mask: (H, W) bool, what is visible of it.
        full: its pixels if nothing hid it and nothing were cut off.
    """

    mask: NDArray[np.bool_]
    class_id: int
    full: int
    source: str

    @property
    def visible(self) -> float:
        """Share that is seen, 0..1."""
        return min(1.0, float(self.mask.sum()) / self.full)


class Layers:
    """Objects from back to front."""

    def __init__(self, width: int, height: int) -> None:
        self._shape = (height, width)
        self._objects: list[PlacedObject] = []

    def admits(self, place: Footprint) -> bool:
        """Whether every earlier object stays recognisable behind something here."""
        for item in self._objects:
            covered = int((item.mask[place.rows, place.columns] & place.opaque).sum())
            hidden = covered + item.full - int(item.mask.sum())
            if covered and hidden >= _MOST_HIDDEN * item.full:
                return False
        return True

    def cover(self, place: Footprint) -> None:
        """Take what is pasted here away from the objects behind it."""
        for item in self._objects:
            item.mask[place.rows, place.columns] &= ~place.opaque

    def add(self, place: Footprint, class_id: int, full: int, source: str) -> None:
        """Put a labelled object in front."""
        mask = np.zeros(self._shape, np.bool_)
        mask[place.rows, place.columns] = place.opaque
        self._objects.append(PlacedObject(mask, class_id, full, source))

    def visible_objects(self) -> list[PlacedObject]:
        """Objects of which enough is seen to deserve a label."""
        return [
            item
            for item in self._objects
            if item.mask.sum() >= max(_LEAST_PIXELS, _LEAST_VISIBLE * item.full)
        ]

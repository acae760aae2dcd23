"""How far a decoded picture may be from another decoder's."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Decoders may repeat or interpolate the subsampled chroma, and round their transform differently.
# The two ways of libjpeg-turbo alone are up to 3.6 levels apart in small detailed pictures, 1.4 in
# photographs; a picture of something else is off by tens.
MEAN_LEVELS: Final = 4.0
# values at coloured edges; contents of another picture put far more of them this far off
FAR_LEVELS: Final = 48
FAR_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class PictureError:
    """One picture against its reference, in levels of 0 to 255.

    Attributes:
        mean: over all values.
        largest: of any value.
        far_share: of the values that are off by more than 48 levels.
    """

    mean: float
    largest: int
    far_share: float

    @property
    def is_within_tolerance(self) -> bool:
        """The whole picture is as near as another decoder's may be expected to be."""
        return self.mean <= MEAN_LEVELS

    @property
    def has_wrong_pixels(self) -> bool:
        """Part of the picture shows something else, however near the rest is."""
        return self.far_share > FAR_SHARE


def picture_error(got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> PictureError:
    """The difference of two pictures; of another size, all of it is wrong."""
    if got.shape != wanted.shape:
        return PictureError(255.0, 255, 1.0)
    error = np.abs(got.astype(np.int16) - wanted)
    return PictureError(float(error.mean()), int(error.max()), float((error > FAR_LEVELS).mean()))

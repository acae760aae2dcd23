"""The answers as the OpenAPI page shows them. Not used to build answers: a test compares both."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.config import TaskName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Milliseconds = Annotated[float, Field(ge=0.0)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Schema):
    """RFC 9457 problem details, with the members that V2 and Hugging Face clients expect."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    error: str
    request_id: str
    retry_after_s: int | None = None


class ModelRef(_Schema):
    name: str
    demo: bool


class ImageSize(_Schema):
    """Of the upright original image, pixels."""

    width: int
    height: int


class RleMask(_Schema):
    """COCO compressed run lengths; `size` is height, width."""

    size: tuple[int, int]
    counts: str


class PolygonMask(_Schema):
    """Outer outlines, each `x1, y1, x2, y2, ...` in pixels."""

    size: tuple[int, int]
    polygons: list[list[float]]


class PngMask(_Schema):
    """Base64 of a black and white PNG."""

    size: tuple[int, int]
    png: str


class Box(_Schema):
    """Pixels of the upright original image."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class ClassPrediction(_Schema):
    label: str
    class_id: int
    score: Fraction


class ObjectPrediction(_Schema):
    label: str
    class_id: int
    score: Fraction
    box: Box
    mask: RleMask | PolygonMask | PngMask | None = None


class AreaPrediction(_Schema):
    label: str
    class_id: int
    pixels: int
    fraction: Fraction


class _Answer(_Schema):
    model: ModelRef
    image: ImageSize
    timings: dict[str, Milliseconds]


class ClassifyAnswer(_Answer):
    predictions: list[ClassPrediction]


class DetectAnswer(_Answer):
    predictions: list[ObjectPrediction]


class SegmentAnswer(_Answer):
    """`label_map`: base64 of an 8-bit grey PNG whose values are class ids."""

    predictions: list[AreaPrediction]
    label_map: str | None = None


class HfClass(_Schema):
    label: str
    score: Fraction


class HfBox(_Schema):
    xmin: int
    ymin: int
    xmax: int
    ymax: int


class HfObject(_Schema):
    label: str
    score: Fraction
    box: HfBox


class HfSegment(_Schema):
    label: str
    mask: str
    score: Fraction | None


class CocoEntry(_Schema):
    """One entry of a COCO results file; `image_id` as far as the request names it."""

    image_id: int | None = None
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    score: Fraction | None = None
    segmentation: RleMask | None = None


class InputSize(_Schema):
    """How pictures are brought to the network's size, pixels."""

    short: int
    long: int | None
    crop: int | None
    pad_multiple: int


class Limits(_Schema):
    """What a request may contain."""

    max_body_bytes: int
    max_pixels: int
    max_side: int
    max_images_per_request: int


class ModelDescription(_Schema):
    name: str
    task: TaskName
    variant: str
    backend: str
    device: str
    dtype: str
    input: InputSize
    classes: list[str]
    demo: bool
    default: bool
    sha256: str | None
    source_sha256: str | None


class ModelList(_Schema):
    models: list[ModelDescription]
    limits: Limits


class Health(_Schema):
    status: Literal["ok"]


class Sample(_Schema):
    name: str
    url: str
    width: int
    height: int
    title: str


ClassifyBody = ClassifyAnswer | list[HfClass] | list[ClassifyAnswer | list[HfClass] | Problem]
DetectBody = (
    DetectAnswer
    | list[HfObject]
    | list[CocoEntry]
    | list[DetectAnswer | list[HfObject] | list[CocoEntry] | Problem]
)
SegmentBody = (
    SegmentAnswer
    | list[HfSegment]
    | list[CocoEntry]
    | list[SegmentAnswer | list[HfSegment] | list[CocoEntry] | Problem]
)

"""Query parameters of the tasks, and what they mean for the model and for the answer."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.config import ModelSpec, TaskName
from model.results import ClassifyParams, DetectParams, Params, SegmentParams
from service.answers import AnswerOptions, parse_class_filter
from service.errors import InvalidParameterError
from service.setting_groups import ThresholdSettings

_CLASSES_HELP: Final = "only these classes: names or ids, comma separated"
Text = Annotated[str, Field(min_length=1, max_length=200)]
_IMAGE_IDS_HELP: Final = "format=coco: the `image_id` of each picture, comma separated"
ImageIds = Annotated[str, Field(pattern=r"^[0-9]{1,18}(,[0-9]{1,18})*$", max_length=4000)]
Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class TaskQuery(BaseModel):
    """Parameters that all tasks have; unknown ones are errors, so that typos do not pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Text | None = Field(default=None, description="name of a served model, see /models")
    classes: Annotated[str, Field(min_length=1, max_length=4000)] | None = Field(
        default=None, description=_CLASSES_HELP
    )
    timeout_ms: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="give up after this time, counted from the end of the body"
    )


class ClassifyQuery(TaskQuery):
    top_k: Annotated[int, Field(ge=1, le=1000)] = Field(default=5, description="so many classes")
    threshold: Score | None = Field(default=None, description="only scores of at least this")
    format: Literal["native", "hf"] | None = Field(default=None, description="form of the answer")
    output: Literal["json", "overlay"] | None = Field(
        default=None, description="overlay: a PNG with the result drawn on it"
    )


class DetectQuery(TaskQuery):
    threshold: Score | None = Field(default=None, description="only scores of at least this")
    nms_iou: Score | None = Field(
        default=None, description="overlap above which the weaker box of a class is dropped"
    )
    max_detections: Annotated[int, Field(ge=1, le=300)] | None = Field(
        default=None, description="at most so many objects"
    )
    masks: Literal["rle", "polygon", "png", "none"] = Field(
        default="rle", description="form of the instance masks"
    )
    format: Literal["native", "coco", "hf"] | None = Field(
        default=None, description="form of the answer"
    )
    image_ids: ImageIds | None = Field(default=None, description=_IMAGE_IDS_HELP)
    output: Literal["json", "overlay"] | None = Field(
        default=None, description="overlay: a PNG with the result drawn on it"
    )


class SegmentQuery(TaskQuery):
    masks: Literal["png", "none"] = Field(
        default="png", description="none: leave out the label map"
    )
    format: Literal["native", "coco", "hf"] | None = Field(
        default=None, description="form of the answer"
    )
    image_ids: ImageIds | None = Field(default=None, description=_IMAGE_IDS_HELP)
    output: Literal["json", "overlay", "labels"] | None = Field(
        default=None,
        description="overlay: a coloured PNG; labels: an 8-bit PNG whose values are class ids",
    )


class _ClassifyJson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    function_to_apply: Literal["softmax"] | None = None
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None


class _DetectJson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    threshold: Score | None = None


class _SegmentJson(BaseModel):
    """The thresholds are of the other subtasks: here they change nothing, every pixel has a class.

    The pipeline of the `transformers` library takes them in the same way.
    """

    model_config = ConfigDict(extra="forbid")

    subtask: Literal["semantic"] | None = None
    threshold: Score | None = None
    mask_threshold: Score | None = None
    overlap_mask_area_threshold: Score | None = None


_JSON_PARAMETERS: Final[dict[TaskName, type[BaseModel]]] = {
    TaskName.CLASSIFY: _ClassifyJson,
    TaskName.DETECT: _DetectJson,
    TaskName.SEGMENT: _SegmentJson,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compute and how to answer.

    Attributes:
        image_ids: of the pictures, in their order; None: not given.
    """

    params: Params
    options: AnswerOptions
    image_ids: tuple[int, ...] | None = None


def with_json_parameters(query: TaskQuery, task: TaskName, found: dict[str, Any]) -> TaskQuery:
    """The query with the `parameters` of a JSON body, which win over the query's own.

    Raises:
        InvalidParameterError: unknown names or values that are not supported.
    """
    try:
        given = _JSON_PARAMETERS[task].model_validate(found).model_dump(exclude_none=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = ".".join(str(part) for part in first["loc"])[:100]
        raise InvalidParameterError(f"parameters.{name}: {first['msg']}") from exc
    known = {name: value for name, value in given.items() if name in type(query).model_fields}
    return query.model_copy(update=known)


def build_plan(
    query: TaskQuery,
    spec: ModelSpec,
    thresholds: ThresholdSettings,
    *,
    default_format: Literal["native", "hf"],
    is_picture: bool,
) -> Plan:
    """Turn parameters into what the model and the answer need.

    Args:
        is_picture: the answer is drawn, so masks are needed whatever the format.

    Raises:
        InvalidParameterError: classes that the model does not have, ids without a place for them.
    """
    class_ids = None
    if query.classes is not None:
        try:
            class_ids = parse_class_filter(query.classes, spec)
        except ValueError as exc:
            raise InvalidParameterError(f"classes: {exc}") from exc
    match query:
        case ClassifyQuery():
            options = AnswerOptions(
                top_k=query.top_k,
                threshold=query.threshold,
                class_ids=class_ids,
                format=query.format or default_format,
            )
            return Plan(ClassifyParams(), options)
        case DetectQuery():
            options = AnswerOptions(
                threshold=query.threshold,
                class_ids=class_ids,
                masks=query.masks,
                format=query.format or default_format,
            )
            image_ids = _image_ids(query.image_ids, options)
            has_masks = options.masks != "none" and (is_picture or options.format != "hf")
            params = _detect_params(query, thresholds, with_masks=has_masks)
            return Plan(params, options, image_ids)
        case SegmentQuery():
            options = AnswerOptions(
                class_ids=class_ids, masks=query.masks, format=query.format or default_format
            )
            return Plan(SegmentParams(), options, _image_ids(query.image_ids, options))
    raise TypeError(f"no plan for {type(query).__name__}")


def _image_ids(text: str | None, options: AnswerOptions) -> tuple[int, ...] | None:
    if text is None:
        return None
    if options.format != "coco":
        raise InvalidParameterError("image_ids belong to format=coco")
    return tuple(int(part) for part in text.split(","))


def _detect_params(
    query: DetectQuery, thresholds: ThresholdSettings, *, with_masks: bool
) -> DetectParams:
    # a higher threshold is applied to the answer: the stronger boxes never depend on weaker ones
    wanted = thresholds.score if query.threshold is None else query.threshold
    return DetectParams(
        score_threshold=min(wanted, thresholds.score),
        nms_iou=thresholds.nms_iou if query.nms_iou is None else query.nms_iou,
        max_detections=query.max_detections or thresholds.max_detections,
        with_masks=with_masks,
    )

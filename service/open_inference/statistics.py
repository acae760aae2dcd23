"""What models have done, from the metrics of all processes.

Durations are counted by task and stage, not by model: they are in `/metrics` only.
"""

from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from service.engine.base import ServedModel
from service.open_inference.schemas import ModelStatistics
from service.work_paths import MODEL_VERSION


def statistics_of(exposition: str, models: Sequence[ServedModel]) -> list[ModelStatistics]:
    """Counts since the start of the service.

    Args:
        exposition: the text of `/metrics`.
    """
    images: dict[str, float] = {}
    batches: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "smserve_images_total" and labels["outcome"] == "ok":
                images[labels["model"]] = sample.value
            elif sample.name == "smserve_batches_total":
                batches[labels["model"]] = sample.value
    return [
        ModelStatistics(
            name=model.spec.name,
            version=MODEL_VERSION,
            inference_count=int(images.get(model.spec.name, 0)),
            execution_count=int(batches.get(model.spec.name, 0)),
        )
        for model in models
    ]

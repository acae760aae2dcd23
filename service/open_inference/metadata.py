"""What server and models say of themselves."""

from typing import Any, Final

import orjson

from service.engine.base import ServedModel
from service.open_inference.schemas import ModelMetadata, ServerMetadata, TensorMetadata
from service.open_inference.tensors import INPUTS, OUTPUTS, TensorSpec
from service.telemetry import service_version
from service.work_paths import MODEL_VERSION

EXTENSIONS: Final = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
]
# Triton's model configuration names the types in its own way
_CONFIG_TYPES: Final = {"BYTES": "TYPE_STRING"}


def server_metadata() -> ServerMetadata:
    return ServerMetadata(name="smserve", version=service_version(), extensions=EXTENSIONS)


def model_metadata(model: ServedModel) -> ModelMetadata:
    return ModelMetadata(
        name=model.spec.name,
        versions=[MODEL_VERSION],
        platform=_platform(model),
        inputs=[_tensor(one) for one in INPUTS],
        outputs=[_tensor(one) for one in OUTPUTS[model.spec.task]],
    )


def model_config(model: ServedModel) -> dict[str, Any]:
    """In the form of Triton's model configuration, as far as it has a meaning here.

    The number of pictures is a dimension of the shapes, so `max_batch_size` is 0.
    """
    spec = model.spec
    facts = {
        "task": spec.task.value,
        "variant": spec.variant,
        "demo": orjson.dumps(spec.demo).decode(),
        "class_names": orjson.dumps(spec.class_names).decode(),
    }
    return {
        "name": spec.name,
        "platform": _platform(model),
        "backend": model.backend,
        "max_batch_size": 0,
        "input": [{**_config_tensor(one), "optional": True} for one in INPUTS],
        "output": [_config_tensor(one) for one in OUTPUTS[spec.task]],
        "parameters": {name: {"string_value": text} for name, text in facts.items()},
    }


def _platform(model: ServedModel) -> str:
    return f"smserve_{model.backend}"


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    data_type = _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape)}

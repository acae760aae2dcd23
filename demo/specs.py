"""The three demo models: names, classes and input sizes."""

from model.config import InputConfig, ModelSpec, TaskName

INPUTS = {
    TaskName.CLASSIFY: InputConfig(short=192, crop=192),
    TaskName.DETECT: InputConfig(short=320, long=533, pad_multiple=32),
    TaskName.SEGMENT: InputConfig(short=256, long=512),
}


def demo_spec(task: TaskName) -> ModelSpec:
    """Spec of the demo model of a task; segmentation has `background` as class 0."""
    from demo.compose import CLASS_NAMES

    background = ("background",) if task is TaskName.SEGMENT else ()
    return ModelSpec(
        name=f"sticker-{task}",
        task=task,
        variant="demo",
        class_names=background + tuple(CLASS_NAMES),
        input=INPUTS[task],
        demo=True,
    )

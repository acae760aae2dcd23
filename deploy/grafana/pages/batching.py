"""What waits, what is computed together, and what is turned away."""

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query
from deploy.grafana.promql import STAGES, TASK, gauge, mean, quantiles, rate

BATCHING: Final = Dashboard(
    "batching",
    "batching and queue",
    [
        Panel(
            "pictures in a batch, mean",
            [Query(mean("smserve_batch_size_images", "model", task=TASK), "{{model}}")],
            "none",
            "1 while the device keeps up; grows with the load, which is what it should do.",
        ),
        Panel(
            "pictures in a batch",
            quantiles("smserve_batch_size_images", "model", task=TASK),
            "none",
            "Interpolated between 1, 2, 4 and so on.",
        ),
        Panel(
            "runs of the device",
            [Query(rate("smserve_batches_total", "model", task=TASK), "{{model}}")],
            "ops",
            "Batches a second.",
        ),
        Panel(
            "pixels computed",
            [Query(rate("smserve_pixels_total", "model", task=TASK), "{{model}}")],
            "none",
            "Network input pixels a second.",
        ),
        Panel(
            "queue",
            [Query(gauge("smserve_queue_depth", by="task", task=TASK), "{{task}}")],
            "none",
            "Pictures waiting for the device; queue.max_images bounds it.",
            stacked=True,
        ),
        Panel(
            "queue, pixels",
            [Query(gauge("smserve_queue_pixels", by="task", task=TASK), "{{task}}")],
            "none",
            "The same at the network's input size; queue.max_pixels bounds it.",
            stacked=True,
        ),
        Panel(
            "oldest picture",
            [
                Query(
                    gauge("smserve_queue_oldest_age_seconds", "max", "task", task=TASK), "{{task}}"
                )
            ],
            "s",
            "Longest wait so far of what still waits.",
        ),
        Panel(
            "time in the queue",
            quantiles(STAGES, "task", stage='="queue"', task=TASK),
            "s",
            "Of pictures that the device got.",
        ),
        Panel(
            "time on the device",
            quantiles(STAGES, "task", stage='="infer"', task=TASK),
            "s",
            "Of the batch that a picture was in.",
        ),
        Panel(
            "time on the processor",
            [
                Query(mean(STAGES, "task", stage='="decode"', task=TASK), "decode {{task}}"),
                Query(
                    mean(STAGES, "task", stage='="postprocess"', task=TASK), "postprocess {{task}}"
                ),
                Query(mean(STAGES, "task", stage='="encode"', task=TASK), "encode {{task}}"),
            ],
            "s",
            "Mean of a picture, before and after the device.",
        ),
        Panel(
            "refused at once",
            [Query(rate("smserve_rejected_total", "reason"), "{{reason}}")],
            "reqps",
            "Requests a second. queue_full and deadline: more load than the device can do.",
        ),
        Panel(
            "dropped before the device",
            [Query(rate("smserve_dropped_total", "reason"), "{{reason}}")],
            "ops",
            "Pictures a second whose client left or whose deadline passed while they waited.",
        ),
    ],
)

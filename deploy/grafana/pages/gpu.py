"""The device; the panels named after it are empty on a CPU."""

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query
from deploy.grafana.promql import STAGES, TASK, gauge, mean, rate

GPU: Final = Dashboard(
    "gpu",
    "GPU",
    [
        Panel(
            "memory",
            [
                Query(
                    gauge("smserve_gpu_memory_used_bytes", "max", "instance, gpu"), "used {{gpu}}"
                ),
                Query(
                    gauge("smserve_gpu_memory_total_bytes", "max", "instance, gpu"),
                    "there is {{gpu}}",
                ),
            ],
            "bytes",
            "Of all processes on the device, not only of this service.",
        ),
        Panel(
            "memory in use",
            [Query(gauge("smserve:gpu_memory:ratio", "max", "instance, gpu"), "{{gpu}}")],
            "percentunit",
            "The alert SmserveGpuMemory fires above 95 %.",
        ),
        Panel(
            "utilisation",
            [Query(gauge("smserve_gpu_utilization_ratio", "max", "instance, gpu"), "{{gpu}}")],
            "percentunit",
            "Share of the time in which a kernel ran; says nothing of how full it was.",
        ),
        Panel(
            "power",
            [Query(gauge("smserve_gpu_power_watts", "max", "instance, gpu"), "{{gpu}}")],
            "watt",
            "Of the whole board. High utilisation at low power: small kernels or small batches.",
        ),
        Panel(
            "time on the device",
            [Query(mean(STAGES, "task", stage='="infer"', task=TASK), "{{task}}")],
            "s",
            "Mean of the batch that a picture was in.",
        ),
        Panel(
            "pixels computed",
            [Query(rate("smserve_pixels_total", "model", task=TASK), "{{model}}")],
            "none",
            "Network input pixels a second.",
        ),
        Panel(
            "CUDA graphs",
            [Query(gauge("smserve_model_graphs", by="model", task=TASK), "{{model}}")],
            "none",
            "Held by each model; gpu.max_graphs bounds them. 0 on a CPU.",
        ),
        Panel(
            "warm-up",
            [Query(gauge("smserve_model_warm_up_seconds", "max", "model", task=TASK), "{{model}}")],
            "s",
            "From the loaded model to its readiness, at the last start or reload.",
        ),
        Panel(
            "batches without memory",
            [Query(rate("smserve_device_out_of_memory_total", "model", task=TASK), "{{model}}")],
            "ops",
            "Repeated in halves; see the limit beside it.",
        ),
        Panel(
            "limit of a batch by memory",
            [
                Query(
                    gauge("smserve_batch_memory_cap_images", "max", "model", task=TASK), "{{model}}"
                )
            ],
            "none",
            "Pictures; 0: no batch has failed so far.",
        ),
        Panel(
            "devices",
            [Query(gauge("smserve_gpu_info", "max", "instance, gpu, name, uuid"), "")],
            "none",
            "Which GPU has which number.",
            kind="table",
            width=24,
        ),
    ],
)

"""Train the demo detector: python -m demo.train_detect --backbone CLASSIFIER --out runs/detect."""

from typing import cast

from torch import Tensor, nn

from demo.specs import demo_spec
from demo.training.augment import flip_scenes, jitter_colours, normalise, to_float
from demo.training.detection_losses import Sampling, Targets, detection_losses
from demo.training.run import parse_options, run, seed_everything, start_from
from demo.training.sources import Scenes
from model.checkpoint import build_network
from model.config import TaskName
from model.mask_rcnn import MaskRCNN


def main() -> None:
    spec = demo_spec(TaskName.DETECT)
    options = parse_options(__doc__ or "", batch=64, size=spec.input.short, pool=40_000)
    seed_everything(options.seed)
    network = build_network(spec)
    start_from(network, options.backbone)
    sampling = Sampling()

    def losses(network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = flip_scenes(batch)
        images = jitter_colours(to_float(batch["image"]))
        images = normalise(images, spec.input.mean, spec.input.std)
        targets = Targets(batch["boxes"], batch["labels"], batch["instances"])
        return detection_losses(cast(MaskRCNN, network), images, targets, sampling)

    source = Scenes(options.pack, options.size, options.seed * 1000 + 200)
    run(network, spec, source, losses, options, peak_lr=1e-3)


if __name__ == "__main__":
    main()

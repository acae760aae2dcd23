"""Train the demo segmenter: python -m demo.train_segment --backbone FILE --out runs/segment."""

import torch.nn.functional as F
from torch import Tensor, nn

from demo.specs import demo_spec
from demo.training.augment import flip_scenes, jitter_colours, normalise, to_float
from demo.training.run import parse_options, run, seed_everything, start_from
from demo.training.sources import Scenes
from model.checkpoint import build_network
from model.config import TaskName
from model.upernet import resize_bilinear


def main() -> None:
    spec = demo_spec(TaskName.SEGMENT)
    options = parse_options(__doc__ or "", batch=64, size=spec.input.short, pool=60_000)
    seed_everything(options.seed)
    network = build_network(spec)
    start_from(network, options.backbone)

    def losses(network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = flip_scenes(batch)
        images = jitter_colours(to_float(batch["image"]))
        logits = network(normalise(images, spec.input.mean, spec.input.std)).float()
        # half resolution: exact enough for the loss at a quarter of the memory
        labels = batch["semantic"][:, ::2, ::2].long()
        logits = resize_bilinear(logits, (labels.shape[1], labels.shape[2]))
        return {"pixels": F.cross_entropy(logits, labels)}

    source = Scenes(options.pack, options.size, options.seed * 1000 + 400)
    run(network, spec, source, losses, options, peak_lr=1e-3)


if __name__ == "__main__":
    main()

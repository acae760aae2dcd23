"""Train the demo classifier: python -m demo.train_classify --pack pack --out runs/classify."""

import torch.nn.functional as F
from torch import Tensor, nn

from demo.specs import demo_spec
from demo.training.augment import erase, jitter_colours, normalise, shift_and_zoom, to_float
from demo.training.run import parse_options, run, seed_everything
from demo.training.sources import Singles
from model.checkpoint import build_network
from model.config import TaskName


def main() -> None:
    spec = demo_spec(TaskName.CLASSIFY)
    options = parse_options(__doc__ or "", batch=512, size=spec.input.short, pool=100_000)
    seed_everything(options.seed)

    def losses(network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        images = erase(jitter_colours(shift_and_zoom(to_float(batch["image"]))))
        logits = network(normalise(images, spec.input.mean, spec.input.std)).float()
        return {"class": F.cross_entropy(logits, batch["label"], label_smoothing=0.1)}

    source = Singles(options.pack, options.size, options.seed * 1000)
    run(build_network(spec), spec, source, losses, options, peak_lr=2e-3)


if __name__ == "__main__":
    main()

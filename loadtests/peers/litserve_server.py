"""The same model served by LitServe (`pip install litserve`), in the form its manual recommends.

python -m loadtests.peers.litserve_server --model FILE --picture FILE --port 8001 --batch 128

Pictures come as the field `image` of a form. A batch is decoded in `decode_request`, one picture
after another, as LitServe's loop does it; more workers on one device overlap that with the
computation of others, each with a copy of the model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve as ls
from fastapi import Request

from loadtests.peers.serving import PeerModel


class SpatialMambaAPI(ls.LitAPI):
    """decode -> predict -> encode."""

    def __init__(
        self, model: Path, picture: Path, *, batch: int, batch_timeout: float, is_random: bool
    ) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=batch_timeout)
        self._file, self._picture = model, picture
        self._batch, self._is_random = batch, is_random
        self._model: PeerModel

    def setup(self, device: str) -> None:
        """In the worker: open the model and compile it for all sizes of batches."""
        self._model = PeerModel(
            self._file, largest_batch=self._batch, has_random_weights=self._is_random
        )
        self._model.warm_up(self._picture.read_bytes(), self._batch)

    def decode_request(self, request: Request, **_: Any) -> Any:
        """Of a form; the annotation tells LitServe to hand it over as it came."""
        return self._model.decode(request["image"].file.read())

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, batch: Any, **_: Any) -> Any:
        if not isinstance(batch, list):  # a server without batches passes one picture
            return self._model.infer([batch])[0], batch
        return list(zip(self._model.infer(batch), batch, strict=True))

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any, **_: Any) -> Any:
        return self._model.answer(*output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True, help="for the warm-up")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batch-timeout-s", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=1, help="per device")
    parser.add_argument("--api-servers", type=int, default=4)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(arguments)
    api = SpatialMambaAPI(
        args.model,
        args.picture,
        batch=args.batch,
        batch_timeout=args.batch_timeout_s,
        is_random=args.random_weights,
    )
    server = ls.LitServer(
        api,
        accelerator=args.accelerator,
        devices=1,
        workers_per_device=args.workers,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=args.port,
        num_api_servers=args.api_servers,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()

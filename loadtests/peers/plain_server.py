"""The same model behind FastAPI as most people begin: a thread pool, one picture at a time.

python -m loadtests.peers.plain_server --model FILE --picture FILE --port 8001

Decoding and encoding run in FastAPI's threads; a lock guards the model, which has its CUDA graph
for one picture.
"""

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import uvicorn
from fastapi import Body, FastAPI, Response

from loadtests.peers.serving import PeerModel


def create_app(model: PeerModel) -> FastAPI:
    """One route, and one for readiness."""
    app = FastAPI()
    lock = threading.Lock()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
        prepared = model.decode(image)
        with lock:
            (raw,) = model.infer([prepared])
        answer = model.answer(raw, prepared)
        return Response(orjson.dumps(answer), media_type="application/json")

    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True, help="for the warm-up")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--random-weights", action="store_true")
    args = parser.parse_args(arguments)
    model = PeerModel(args.model, largest_batch=1, has_random_weights=args.random_weights)
    model.warm_up(args.picture.read_bytes(), 1)
    uvicorn.run(create_app(model), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()

"""Write the dashboards as Grafana reads them: `python -m deploy.grafana.generate`.

`deploy.check_stack` asks a running Prometheus for every query of theirs.
"""

import json
from pathlib import Path
from typing import Final

from deploy.grafana.pages.batching import BATCHING
from deploy.grafana.pages.errors import ERRORS
from deploy.grafana.pages.gpu import GPU
from deploy.grafana.pages.overview import OVERVIEW
from deploy.grafana.panels import Dashboard, to_json

FOLDER: Final = Path(__file__).parent / "dashboards"
DASHBOARDS: Final = (OVERVIEW, BATCHING, GPU, ERRORS)


def render(dashboard: Dashboard) -> str:
    return json.dumps(to_json(dashboard), indent=1) + "\n"


def main() -> None:
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(render(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The application that Ray Serve deploys; `import_path` of `deploy/ray/serve_config.yaml`."""

from typing import Any

from ray import serve
from ray.serve import Application

from service.ray_serve.arguments import Placement, parse_arguments, replica_settings
from service.ray_serve.options import deployment_options
from service.ray_serve.replica import Replica
from service.settings import Settings


def build(arguments: dict[str, Any]) -> Application:
    """From the `args` of a configuration file: the fields of `Placement`, and `settings`.

    The environment of the machine that builds it plays no part.

    Raises:
        SettingsError: unknown names or bad values; what is deployed already goes on.
    """
    placement, settings = parse_arguments(arguments)
    return application(settings, placement)


def application(settings: Settings, placement: Placement) -> Application:
    """The service with these settings.

    Raises:
        SettingsError: something is asked for that a replica cannot do.
    """
    ours = replica_settings(settings, placement)
    deployment: Any = serve.deployment(**deployment_options(ours, placement))
    bound: Application = deployment(serve.ingress()(Replica)).bind(ours)
    return bound

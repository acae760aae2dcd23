"""Load on a running service, with Locust.

locust -f loadtests/locustfile.py --host http://127.0.0.1:8000

docs/load-testing.md says what to make of it. Needs locust, numpy and pillow; with
prometheus-client, too, it names the stage of the service that limits.
"""

import sys
from pathlib import Path

from locust import events

# Locust imports this file from wherever it was started
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests.locust_users.pictures import make_pictures
from loadtests.locust_users.session import install
from loadtests.locust_users.user import SmserveUser

__all__ = ["SmserveUser"]

# before Locust forks its processes off or a run begins: they share them, and nobody waits
install(events, make_pictures())

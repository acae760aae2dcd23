"""The options that Locust gets from us: as arguments, as LOCUST_* variables, in its web UI."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loadtests.locust_users.shots import TASKS

# few pictures are smaller
SMALLEST_MEGAPIXELS: Final = 0.05
# an option that nobody gives: the master tells its workers how many users there are in all
NUM_SPAWNERS: Final = "smserve_num_spawners"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What kind of load, as all processes of a run understand it.

    Attributes:
        rate: requests per second of all processes together, whatever the answers do (open loop);
            0: users who wait for their answers (closed loop).
        arrivals: of the open loop, `poisson` or `constant`.
        num_spawners: users of the whole run; each one sends its part of the rate.
        mix: relative shares of the tasks.
        think_s: between an answer and the next request of a user, shortest and longest.
        mistakes: share of requests that are wrong on purpose.
        max_megapixels: larger pictures are left out.
        max_in_flight: most unanswered requests of one spawner.
        drain_s: so long answers are waited for after the last request.
    """

    rate: float
    arrivals: str
    num_spawners: int
    mix: Mapping[str, float]
    think_s: tuple[float, float]
    mistakes: float
    max_megapixels: float
    max_in_flight: int
    drain_s: float
    api_key: str

    @property
    def is_open(self) -> bool:
        return self.rate > 0

    @property
    def spawner_rate(self) -> float:
        """Requests per second of one user in the open loop."""
        return self.rate / self.num_spawners


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may be at worst; None, or no entry for a task: not judged.

    Attributes:
        error_ratio: failed requests among all.
        refused_ratio: requests answered with 429 or 503 among all.
        min_rate: right answers per second.
        p99_ms: by task, of right answers.
    """

    error_ratio: float | None
    refused_ratio: float | None
    min_rate: float | None
    p99_ms: Mapping[str, float]


def load_options(parsed: argparse.Namespace) -> LoadOptions:
    """From what Locust has parsed; the web UI and the master may have changed it since."""
    return LoadOptions(
        rate=float(parsed.rate),
        arrivals=parsed.arrivals,
        num_spawners=getattr(parsed, NUM_SPAWNERS, 1),
        mix=parse_mix(parsed.mix),
        think_s=parse_think(parsed.think_s),
        mistakes=float(parsed.mistakes),
        max_megapixels=float(parsed.max_megapixels),
        max_in_flight=int(parsed.max_in_flight),
        drain_s=float(parsed.drain_s),
        api_key=parsed.api_key,
    )


def limits(parsed: argparse.Namespace) -> Limits:
    return Limits(
        error_ratio=parsed.max_error_ratio,
        refused_ratio=parsed.max_refused_ratio,
        min_rate=parsed.min_rate,
        p99_ms=parse_p99(parsed.max_p99_ms),
    )


def parse_mix(text: str) -> dict[str, float]:
    """`classify=8,detect=1`; tasks that are not named are not sent.

    Raises:
        ValueError: not of this form, or nothing is left to send.
    """
    mix = _parse_pairs(text)
    if not mix or min(mix.values()) < 0 or not sum(mix.values()):
        raise ValueError(f"{text!r}: expected TASK=SHARE,... with a share above 0")
    return mix


def parse_think(text: str) -> tuple[float, float]:
    """`0.5` or `0.5-2`, seconds.

    Raises:
        ValueError: neither of them.
    """
    shortest, _, longest = text.partition("-")
    bounds = float(shortest), float(longest or shortest)
    if not 0 <= bounds[0] <= bounds[1]:
        raise ValueError(f"{text!r}: expected SECONDS or SHORTEST-LONGEST")
    return bounds


def parse_p99(text: str) -> dict[str, float]:
    """`2000` for each task, or `classify=500,detect=2000`; empty: no limit.

    Raises:
        ValueError: of another form.
    """
    if not text:
        return {}
    if "=" in text:
        return _parse_pairs(text)
    return dict.fromkeys(TASKS, float(text))


def _parse_pairs(text: str) -> dict[str, float]:
    pairs = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in TASKS:
            raise ValueError(f"{part!r}: expected TASK=NUMBER with a task of {', '.join(TASKS)}")
        pairs[name] = float(value)
    return pairs


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """A type for argparse that keeps the text, which is what Locust can send to its workers."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc
        return text

    return check


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share between 0 and 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value


def _megapixels(text: str) -> float:
    value = _positive(text)
    if value < SMALLEST_MEGAPIXELS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at least {SMALLEST_MEGAPIXELS:g}")
    return value


def add_arguments(parser: Any) -> None:
    """To Locust's own parser; each also as the variable `LOCUST_` and its name.

    None has the default None: the web UI could not tell its type then.
    """
    _add_load_arguments(parser)
    _add_run_arguments(parser)


def _add_load_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("--rate", type=_positive, default=0.0, env_var="LOCUST_RATE",
        help="requests/s of all processes together, whatever the answers do (open loop); "
        "0: users who wait for their answers (closed loop)")  # fmt: skip
    add("--arrivals", choices=("poisson", "constant"), default="poisson",
        env_var="LOCUST_ARRIVALS", help="of the open loop")  # fmt: skip
    add("--mix", type=_checked(parse_mix), default="classify=8,detect=1,segment=1",
        env_var="LOCUST_MIX", help="relative shares of the tasks")  # fmt: skip
    add("--think-s", type=_checked(parse_think), default="0.5-1.5", env_var="LOCUST_THINK_S",
        help="closed loop: seconds between answer and next request, e.g. 2 or 0.5-1.5")  # fmt: skip
    add("--mistakes", type=_share, default=0.03, env_var="LOCUST_MISTAKES",
        help="share of requests that are wrong on purpose; right is the right 4xx")  # fmt: skip
    add("--max-megapixels", type=_megapixels, default=12.0, env_var="LOCUST_MAX_MEGAPIXELS",
        help="leave out larger pictures")  # fmt: skip
    add("--max-in-flight", type=int, default=256, env_var="LOCUST_MAX_IN_FLIGHT",
        help="open loop: most unanswered requests of one user; one more is a failure")  # fmt: skip
    add("--drain-s", type=_positive, default=30.0, env_var="LOCUST_DRAIN_S",
        help="wait for the last answers for so long after the last request")  # fmt: skip
    add("--api-key", default="", env_var="LOCUST_API_KEY", is_secret=True,
        help="sent as Authorization: Bearer")  # fmt: skip


def _add_run_arguments(parser: Any) -> None:
    # what is in a group is not shown in the web UI, where nobody waits for an exit status
    add = parser.add_argument_group("judgement and report").add_argument
    add("--max-error-ratio", type=_share, env_var="LOCUST_MAX_ERROR_RATIO",
        help="fail above; default: fail on any error")  # fmt: skip
    add("--max-refused-ratio", type=_share, env_var="LOCUST_MAX_REFUSED_RATIO",
        help="fail above; of requests answered with 429 or 503")  # fmt: skip
    add("--min-rate", type=_positive, env_var="LOCUST_MIN_RATE",
        help="fail below; right answers per second")  # fmt: skip
    add("--max-p99-ms", type=_checked(parse_p99), default="", env_var="LOCUST_MAX_P99_MS",
        help="fail above; one number for each task, or classify=500,detect=2000")  # fmt: skip
    add("--metrics-url", default="", env_var="LOCUST_METRICS_URL",
        help="addresses whose /metrics are read, separated by commas; else the host")  # fmt: skip
    add("--report", default="", env_var="LOCUST_REPORT",
        help="JSON file of the run; default: beside the HTML or CSV report")  # fmt: skip

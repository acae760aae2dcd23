"""Ties users, options and judgement to Locust's events."""

from functools import partial
from typing import Any

from locust.runners import MasterRunner, WorkerRunner

from loadtests.locust_users.judge import DRAIN, DRAINED, Judge
from loadtests.locust_users.options import add_arguments
from loadtests.locust_users.pictures import Picture
from loadtests.locust_users.sender import Sender, update_clock


def install(events: Any, pictures: tuple[Picture, ...]) -> None:
    """Let Locust know of us.

    Args:
        events: of `locust`.
        pictures: to send, just made.
    """
    update_clock()
    events.init_command_line_parser.add_listener(lambda parser, **_: add_arguments(parser))
    events.init.add_listener(partial(_begin_process, pictures=pictures))


def _begin_process(environment: Any, pictures: tuple[Picture, ...], **_: Any) -> None:
    """Listens to `init`: this process knows by now what it is."""
    runner = environment.runner
    sender = None
    if not isinstance(runner, MasterRunner):
        sender = environment.smserve_sender = Sender(environment, pictures)
    if not isinstance(runner, WorkerRunner):
        _complete_options(environment.parsed_options)
        Judge(environment, sender).install()
    if sender is not None:
        sender.prepare()
        environment.events.test_start.add_listener(sender.begin)
    if isinstance(runner, WorkerRunner) and sender is not None:
        _obey_master(environment, sender)


def _complete_options(parsed: Any) -> None:
    """In the open loop users are processes: one each, all from the start."""
    if parsed.rate and parsed.num_users is None:
        parsed.num_users = max(1, parsed.expect_workers if parsed.master else 1)
    if parsed.rate and parsed.spawn_rate is None:
        parsed.spawn_rate = parsed.num_users


def _obey_master(environment: Any, sender: Sender) -> None:
    runner = environment.runner

    def drain(**_: Any) -> None:
        sender.drain()
        # else the master had to wait for the next report, and ends before it comes
        runner._send_stats()
        runner.send_message(DRAINED)

    def report(data: dict[str, Any], **_: Any) -> None:
        data["smserve"] = sender.counter.take()

    # in a greenlet of its own, or else heartbeats would go unanswered meanwhile
    runner.register_message(DRAIN, drain, concurrent=True)
    environment.events.report_to_master.add_listener(report)

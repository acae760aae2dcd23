"""The process that starts a run: it looks at the service before and after, and judges."""

import time
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.lock import Semaphore
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner

from loadtests.limiting_stage import Explanation, explain
from loadtests.locust_users.ledger import Ledger
from loadtests.locust_users.options import NUM_SPAWNERS, limits, load_options
from loadtests.locust_users.report import add_to_html, report_lines, report_path, write_json
from loadtests.locust_users.sender import Sender
from loadtests.locust_users.summary import broken, summarise
from loadtests.scrape import Scrape, scrape

# messages between the master and its workers
DRAIN: Final = "smserve_drain"
DRAINED: Final = "smserve_drained"
_RUNNING: Final = (STATE_SPAWNING, STATE_RUNNING)
_POLL_S: Final = 0.05
_MESSAGE_S: Final = 2.0


class Judge:
    """Of the only process, or the master of several.

    Args:
        sender: of this process; None in a master, which sends nothing.
    """

    def __init__(self, environment: Any, sender: Sender | None) -> None:
        self._environment = environment
        self._sender = sender
        self._ledger = Ledger()
        self._num_drained = 0
        self._before: tuple[float, Scrape] | None = None
        self._explanation: Explanation | str = "the run has not ended"
        self._started_at = 0.0
        self._judgement: tuple[list[str], list[str]] | None = None
        self._judging = Semaphore()

    def install(self) -> None:
        """Listen to what happens."""
        events = self._environment.events
        events.test_start.add_listener(self._begin)
        events.test_stopping.add_listener(self._drain)
        events.test_stop.add_listener(self._end)
        events.quitting.add_listener(self._judge)
        events.worker_report.add_listener(self._collect)
        if isinstance(self._environment.runner, MasterRunner):
            self._environment.runner.register_message(DRAINED, self._note_drained)

    def _begin(self, **_: Any) -> None:
        parsed = self._environment.parsed_options
        setattr(parsed, NUM_SPAWNERS, max(1, int(parsed.num_users or 1)))
        self._ledger, self._judgement = Ledger(), None
        self._started_at = time.time()
        try:
            self._before = time.monotonic(), self._scrape()
        except (OSError, ValueError, ImportError) as exc:
            self._before, self._explanation = None, f"{type(exc).__name__}: {exc}"

    def _scrape(self) -> Scrape:
        given = self._environment.parsed_options.metrics_url or self._environment.host or ""
        return scrape(*(url.strip() for url in given.split(",")))

    def _drain(self, **_: Any) -> None:
        if self._sender is not None:
            self._sender.drain()
            return
        runner = self._environment.runner
        self._num_drained = 0
        runner.send_message(DRAIN)
        options = load_options(self._environment.parsed_options)
        deadline = time.monotonic() + options.drain_s + _MESSAGE_S
        while self._num_drained < runner.worker_count and time.monotonic() < deadline:
            gevent.sleep(_POLL_S)

    def _note_drained(self, **_: Any) -> None:
        self._num_drained += 1

    def _collect(self, data: Any, **_: Any) -> None:
        if message := data.get("smserve"):
            self._ledger.merge(message)

    def _end(self, **_: Any) -> None:
        if self._before is not None:
            since, before = self._before
            try:
                self._explanation = explain(before, self._scrape(), time.monotonic() - since)
            except (OSError, ValueError) as exc:
                self._explanation = f"{type(exc).__name__}: {exc}"
        if not self._environment.parsed_options.headless:
            # whoever stops a run in the web UI wants to know now
            self._conclude()

    def _judge(self, **_: Any) -> None:
        """At the very end, when Locust has written its reports.

        A signal ends a run that goes on, and then the end of that run comes here once more.
        """
        if not self._started_at:
            return
        environment = self._environment
        with self._judging:
            if self._judgement is None:
                if environment.runner.state in _RUNNING:
                    environment.runner.quit()
                self._judgement = self._conclude()
        lines, faults = self._judgement
        parsed = environment.parsed_options
        if parsed.html_file:
            add_to_html(Path(parsed.html_file), lines, written_after=self._started_at)
        if faults:
            environment.process_exit_code = 1
        elif parsed.max_error_ratio is not None and not environment.runner.exceptions:
            # Locust's own rule would fail the run for a single error
            environment.process_exit_code = 0

    def _conclude(self) -> tuple[list[str], list[str]]:
        """Print and write what came out; returns it, and what of it was worse than allowed."""
        environment, parsed = self._environment, self._environment.parsed_options
        if self._sender is not None:
            self._ledger.merge(self._sender.counter.take())
        options, explanation = load_options(parsed), self._explanation
        summary = summarise(environment.stats, self._ledger, options.num_spawners)
        faults = list(broken(summary, limits(parsed)))
        lines = report_lines(options, summary, explanation, faults)
        print("\n" + "\n".join(lines), flush=True)
        if path := report_path(parsed):
            found = None if isinstance(explanation, str) else explanation.as_json()
            write_json(path, {**summary.as_json(), "explanation": found, "failed": faults})
        return lines, faults

"""Whether an answer is the right one."""

from dataclasses import dataclass
from enum import StrEnum
from json import JSONDecodeError, loads
from typing import Any, Final

from loadtests.locust_users.shots import JSON, Shot

REFUSALS: Final = (429, 503)


class Outcome(StrEnum):
    """What became of a request.

    Attributes:
        OK: answered as it should be.
        MISTAKE: wrong on purpose, and told so with the right status and code.
        REFUSED: 429 or 503: the service has said that it cannot do it now.
        FAILED: anything else.
    """

    OK = "ok"
    MISTAKE = "mistake"
    REFUSED = "refused"
    FAILED = "failed"


def entry_name(task: str, outcome: Outcome) -> str:
    """Of Locust's statistics: what went well stands alone, so that nothing dilutes its times."""
    return f"/{task}" if outcome is Outcome.OK else f"/{task} {outcome}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, and why; the reasons are few, so that reports can group by them."""

    outcome: Outcome
    reason: str = ""


def judge(shot: Shot, status: int, media_type: str, content: bytes) -> Verdict:
    """Compare an answer with the right one.

    Args:
        status: of the answer; 0 when there was none.
        media_type: of the answer, without its parameters.
    """
    if status in REFUSALS:
        return Verdict(Outcome.REFUSED, f"status {status}")
    code = str(_parsed(content, dict).get("code", "")) if status >= 400 else ""
    if (status, code) != (shot.status, shot.code):
        expected = f"{shot.status} {shot.code}".strip()
        return Verdict(Outcome.FAILED, f"status {status} {code}".strip() + f", expected {expected}")
    if media_type != shot.media_type:
        return Verdict(Outcome.FAILED, f"{media_type or 'no media type'}, not {shot.media_type}")
    if shot.is_mistake:
        return Verdict(Outcome.MISTAKE)
    if not content:
        return Verdict(Outcome.FAILED, "an empty answer")
    if shot.payload.images > 1 and media_type == JSON:
        return _judge_list(shot, content)
    return Verdict(Outcome.OK)


def _judge_list(shot: Shot, content: bytes) -> Verdict:
    """Of several pictures each one has an answer or an error of its own, under status 200."""
    answers = _parsed(content, list)
    if len(answers) != shot.payload.images:
        return Verdict(Outcome.FAILED, "not one answer a picture")
    for answer in answers:
        problem = answer if isinstance(answer, dict) else {}
        status = problem.get("status", 200)
        if status in REFUSALS:
            return Verdict(Outcome.REFUSED, f"status {status} of a picture")
        if status != 200:
            return Verdict(Outcome.FAILED, f"a picture with {status} {problem.get('code')}")
    return Verdict(Outcome.OK)


def _parsed(content: bytes, kind: type[Any]) -> Any:
    """JSON of this type, else an empty one."""
    try:
        found = loads(content)
    except (JSONDecodeError, UnicodeDecodeError):
        return kind()
    return found if isinstance(found, kind) else kind()

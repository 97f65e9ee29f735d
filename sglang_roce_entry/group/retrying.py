"""The tries after the first one, by tenacity: nothing loads it where the first try succeeds."""

from __future__ import annotations

from collections.abc import Callable
from random import uniform

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from sglang_roce_entry.group.attempts import SHORTEST_TRY_S, NotYet, Result, Surroundings, WaitPolicy


def keep_trying(
    attempt: Callable[[float], Result],
    first: NotYet,
    deadline: float,
    policy: WaitPolicy,
    around: Surroundings,
    tell: Callable[[NotYet, float], None],
) -> Result:
    """Return what ``attempt`` returns, tried again after ``first`` until ``deadline`` on ``around.clock``.

    ``tell`` gets each failure and the seconds until the next try. Raises the last :class:`NotYet`.
    """
    failures: list[NotYet] = []
    longest_s = wait_exponential(multiplier=policy.first_s, max=policy.cap_s)

    def once() -> Result:
        remaining_s = deadline - around.clock()
        try:
            if not failures:
                raise first  # tenacity counts from the first try, which has been made
            if remaining_s < SHORTEST_TRY_S:
                raise failures[-1]  # too short to learn anything: the try before found the cause
            return attempt(remaining_s)
        except NotYet as failure:
            failures.append(failure)
            raise

    def pause_s(state: RetryCallState) -> float:
        remaining_s = max(0.0, deadline - around.clock())
        if remaining_s < SHORTEST_TRY_S:
            return remaining_s  # no more tries: what they would find out is known
        chosen = max(longest_s(state) * uniform(0.5, 1.0), failures[-1].retry_in_s)  # noqa: S311 - it only spreads
        return min(chosen, remaining_s)

    def before_sleep(state: RetryCallState) -> None:
        tell(failures[-1], state.next_action.sleep if state.next_action is not None else 0.0)

    retrying = Retrying(
        retry=retry_if_exception_type(NotYet),
        stop=lambda _state: around.clock() >= deadline,
        wait=pause_s,
        before_sleep=before_sleep,
        sleep=around.pause,
        reraise=True,
    )
    return retrying(once)

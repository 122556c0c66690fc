"""What one refresh may spend. :mod:`.test_plan` shows what it spends that on."""

from exporter.polling.refresh import PollBudget
from exporter.polling.requests import Exhausted, JobResult


def test_budget_is_available_for_as_many_requests() -> None:
    budget, requests = PollBudget(3), 0
    while budget.available:
        budget.spend(JobResult())
        requests += 1

    assert requests == 3
    assert not budget.exhausted


def test_budget_is_unavailable_once_the_allowance_is_exhausted() -> None:
    budget = PollBudget(3)

    budget.spend(Exhausted())

    assert budget.exhausted
    assert not budget.available


def test_requests_for_details_are_not_due_again_at_the_next_poll() -> None:
    budget = PollBudget(3)

    budget.spend(JobResult())
    budget.spend(JobResult(), for_details=True)

    assert budget.spent_on_unfinished == 1

"""The table of faults: each test says what it did, what happened and what was lost."""

import pytest

from tests.faults.plan import Plan


@pytest.fixture
def plan(monkeypatch):
    """Returns a plan without a fault yet."""
    return Plan(monkeypatch)


@pytest.fixture
def tell(record_property):
    """Returns what adds a row to the table: (fault, what happened, what was lost)."""
    return lambda *row: record_property("fault", row)


def pytest_terminal_summary(terminalreporter):
    """Prints the rows of the tests that passed."""
    passed = terminalreporter.getreports("passed")
    rows = [value for report in passed for name, value in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults: what was done -> what happened -> what was lost")
        for row in sorted(set(map(tuple, rows))):
            terminalreporter.write_line(" -> ".join(row))

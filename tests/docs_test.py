"""The documentation: no link within it leads nowhere, no page is left out, README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])
name_of = lambda path: str(path.relative_to(ROOT))


def without_code(page):
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_leads_somewhere(page):
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target} is not there"
        assert there.is_relative_to(DOCS) or not page.is_relative_to(DOCS), (
            f"{name_of(page)}: {target} is not part of the site"
        )
        assert not anchor or anchor in anchors(there), f"{name_of(page)}: no heading for {target}"


def reached_from(start):
    seen, pending = set(), [start]
    while pending:
        page = pending.pop()
        if page not in seen:
            seen.add(page)
            found = re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text())
            pending += [(page.parent / target).resolve() for target in found]
    return seen


@pytest.mark.parametrize("start", [ROOT / "README.md", DOCS / "index.md"], ids=name_of)
def test_every_page_can_be_reached(start):
    assert {*DOCS.glob("**/*.md")} - {DOCS / "index.md"} <= reached_from(start)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_the_page_on_faults_names_each_of_thirty_and_tests_that_are_there():
    rows = re.findall(r"^\| (F\d+) \|.*$", (DOCS / "faults.md").read_text(), re.MULTILINE)
    assert rows == [f"F{number}" for number in range(1, 31)]
    for name in re.findall(r"`([\w/]+_test)`", (DOCS / "faults.md").read_text()):
        assert (ROOT / "tests" / f"{name}.py").exists(), name

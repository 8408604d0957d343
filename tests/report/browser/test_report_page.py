"""The report in a real browser: what it shows, does and asks for, at all sizes, and how soon."""

import json
import time
from urllib.parse import quote

import pytest

from trust_exp.cli import run as command
from trust_exp.results.collect import collect
from trust_exp.results.record import Row, fraction

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror=window.hacked=1>"
COLUMN = """(key) => [...document.querySelectorAll('#table-view tbody tr')].map((row) =>
    row.querySelector(`td[data-label^="${key}"]`).textContent)"""


@pytest.fixture(scope="module")
def many(runs_in, tmp_path_factory):
    """A folder of 48 runs, and the page of them."""
    folder = tmp_path_factory.mktemp("many")
    maker = runs_in(folder / "runs")
    maker.many(48)
    maker.fail(maker.config(seed=99), EVIL, name=EVIL, files={"log.txt": EVIL})
    return maker.runs, write_page(maker.runs, folder / "report.html")


def write_page(runs, out, *arguments):
    command(["report", "--runs", str(runs), "--out", str(out), *arguments])
    return out.as_uri()


def column(page, key):
    return page.run(f"({COLUMN})({json.dumps(key)})")


def numbers(page, key):
    return [float(text) for text in column(page, key) if text != "–"]


def rows(page):
    return page.run("document.querySelectorAll('#table-view tbody tr').length")


def text(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def tick(page, *places):
    for place in places:
        page.click(f"#table-view tbody tr:nth-child({place}) input")


def test_it_loads_alone_and_shows_every_run(page, many):
    runs, url = many
    page.open(url)
    assert page.requests() == [url]
    assert rows(page) == 49
    stored = collect(runs).results
    assert column(page, "run") == [found.id for found in reversed(stored)]
    states = [found.values["status"] for found in stored]
    legend = page.run("[...document.querySelectorAll('.legend button')].map((one) => one.textContent)")
    assert legend == [f"{status} {states.count(status)}" for status in ("done", "failed")]


def test_a_head_sorts_and_sorts_back_with_missing_ones_last(page, many):
    page.open(many[1])
    page.run("document.querySelector('th button[data-focus=\"sort clean/accuracy\"]').focus()")
    page.key("Enter", 13)
    descending = numbers(page, "clean/accuracy")
    assert descending == sorted(descending, reverse=True)
    assert column(page, "clean/accuracy")[-3:] == ["–"] * 3
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    page.key("Enter", 13)  # the head still has the focus
    assert numbers(page, "clean/accuracy") == sorted(descending)
    assert column(page, "clean/accuracy")[-3:] == ["–"] * 3
    assert page.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"


def test_sorting_is_stable(page, many):
    page.open(many[1])
    newest_first = list(zip(column(page, "method"), column(page, "run"), strict=True))
    page.click("th button[data-focus='sort method']")
    ascending = list(zip(column(page, "method"), column(page, "run"), strict=True))
    assert ascending == sorted(newest_first, key=lambda pair: pair[0])
    page.click("th button[data-focus='sort method']")
    descending = list(zip(column(page, "method"), column(page, "run"), strict=True))
    assert descending == sorted(newest_first, key=lambda pair: pair[0], reverse=True)


def test_typing_filters_and_the_address_keeps_it(page, many):
    page.open(many[1])
    page.click("input[type=search]")
    page.type("gloro method.epsilon=0.5")
    assert set(column(page, "method")) == {"gloro"}
    assert 0 < rows(page) < 12
    address, shown = page.run("location.href"), column(page, "run")
    page.open(address)
    assert column(page, "run") == shown
    page.click(".clear")
    assert rows(page) == 49


@pytest.fixture(scope="module")
def three(runs_in, tmp_path_factory):
    """Runs whose seeds and margins begin alike, and the page of them."""
    folder = tmp_path_factory.mktemp("three")
    maker = runs_in(folder / "runs")
    for seed, epsilon in ((1, 0.5), (15, 0.51), (104, 36 / 255)):
        maker.write(maker.config(seed=seed, epsilon=epsilon), curve=0, figure=0)
    maker.fail(maker.config("standard", seed=2), "ValueError: no")
    return maker.runs, write_page(maker.runs, folder / "report.html")


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ("seed=1", [1]),
        ("seed=1,15", [15, 1]),
        ("method.epsilon=0.5", [1]),
        ("method.epsilon=0.50", [1]),
        ("method.epsilon=0.51", [15]),
        ("method.epsilon=36/255", [104]),
        ("method=cll status=done seed=104", [104]),
        ("method.name=CLL", [104, 15, 1]),
        ("sweep=null", [2, 104, 15, 1]),
    ],
)
def test_a_key_with_a_value_selects_what_the_command_selects(page, three, words, seeds):
    runs, url = three
    page.open(f"{url}#column=&column=seed&q={quote(words)}")
    assert column(page, "run") == [found.id for found in reversed(collect(runs, words.split()).results)]
    assert column(page, "seed") == [str(seed) for seed in seeds]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("digits", 4),
        (".51", 1),
        ("valueerror", 1),
        ("method.epsilon=", 3),  # its value is still to be typed
        ("method.epsilon=0.141176", 1),  # as the page shows 36/255
    ],
)
def test_a_word_is_searched_for_in_all(page, three, word, found):
    page.open(three[1])
    page.click("input[type=search]")
    page.type(word)
    assert rows(page) == found


def test_a_key_that_no_run_has_is_said(page, three):
    page.open(f"{three[1]}#q=seed%3D1+method.epsilom%3D0.5")
    assert text(page, ".told") == "No run passes these filters; none has the key method.epsilom."


def heads(page):
    shown = page.run("[...document.querySelectorAll('#table-view th.metric button')].map((one) => one.dataset.focus)")
    return [key.removeprefix("sort ") for key in shown]


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ("aaab", ["a/first", "a/second"]),  # the newest run is alone with its metrics
        ("aabb", ["a/first", "a/second", "b/first", "b/second"]),
        ("aabbc", ["a/first", "a/second", "b/first", "b/second"]),  # none has half: the most frequent
        ("abbbb", ["b/first", "b/second"]),
        ("aab!!!!", ["a/first", "a/second"]),  # runs that have failed measured nothing
    ],
)
def test_the_columns_are_at_first_what_most_runs_have(page, runs_in, tmp_path, kinds, wanted):
    maker = runs_in(tmp_path / "runs")
    for seed, kind in enumerate(kinds):
        if kind == "!":
            maker.fail(maker.config(seed=seed), "ValueError: no")
        else:
            made = [{"suite": kind, **vars(fraction(f"{kind}/{name}", 1, 2))} for name in ("first", "second")]
            empty = {"suite": "none", **vars(fraction("none/measured", 0, 0))}
            maker.write(maker.config(seed=seed), curve=0, figure=0, metrics={}, rows=[*made, empty])
    page.open(write_page(maker.runs, tmp_path / "report.html"))
    assert sorted(heads(page)) == wanted
    newest = collect(maker.runs).results[-1]
    if newest.values["status"] == "done":
        page.open(f"{(tmp_path / 'report.html').as_uri()}#q={newest.id}")
        assert heads(page) == [f"{kinds[-1]}/{name}" for name in ("first", "second")], "of the runs that are listed"


def test_of_many_common_metrics_the_columns_are_five(page, many):
    page.open(many[1])
    accuracies = ["clean/accuracy", "certify/accuracy@0.25", "certify/accuracy@0.5"]
    assert heads(page) == [*accuracies, "certify/lipschitz", "autoattack/accuracy"]


def test_facets_filter_together_and_count(page, many):
    page.open(many[1])
    for menu, choice in (("method", "cll"), ("size", "small")):
        page.run(
            f"""[...document.querySelectorAll('.menus summary')].find((one) => one.textContent === '{menu}').click()"""
        )
        page.wait("document.querySelector('details[open] label')")
        page.run(f"""[...document.querySelectorAll('details[open] label')]
            .find((one) => one.textContent.startsWith('{choice}')).firstElementChild.click()""")
    assert set(column(page, "method")) == {"cll"}
    assert set(column(page, "size")) == {"small"}
    counts = page.run("[...document.querySelectorAll('details[open] label .fine')].map((one) => one.textContent)")
    assert counts[1] == str(rows(page))


def test_any_key_that_differs_can_be_a_column_and_a_filter(page, many):
    page.open(many[1] + "#column=&column=method.epsilon&where.method.epsilon=0.25")
    assert set(column(page, "method.epsilon")) == {"0.25"}
    assert "cell" not in page.run("document.querySelector('#table-view thead').textContent")


def test_a_run_opens_with_all_that_is_known_of_it(page, many):
    found = [found for found in collect(many[0]).results if found.values["status"] == "done"][-1]
    page.open(many[1])
    page.click(f"a[data-run='{found.id}']")
    page.wait("document.querySelector('#run-view .plot svg')")
    assert page.run("location.hash") == f"#run={found.id}"
    shown = text(page, "#run-view")
    for row in found.values["rows"]:
        if "class" not in row["detail"]:
            assert row["metric"] in shown
    for word in ("0123456789ab", "2.14.1", "00ff00ff", "python run.py", "upper bound, float64", "eval/certify"):
        assert word in shown
    page.wait("document.querySelector('#run-view img').complete")
    assert page.run("document.querySelector('#run-view img').naturalWidth") == 40
    page.run("history.back()")
    page.wait("!document.querySelector('#table-view').hidden")


def test_evals_that_ran_elsewhere_have_their_command(page, runs_in, tmp_path):
    maker = runs_in(tmp_path / "runs")
    folder = maker.write(maker.config())
    stored = json.loads((folder / "result.json").read_text())
    trained = stored["environment"]
    again = {**trained, "device": "cuda", "command": ["run.py", "mode=eval", "eval=[certify,clean]"]}
    stored["evals"] = {name: {"id": name, "environment": again} for name in ("certify", "clean")}
    stored["evals"]["autoattack"] = {"id": "autoattack", "environment": trained}
    (folder / "result.json").write_text(json.dumps(stored))
    page.open(write_page(maker.runs, tmp_path / "report.html"))
    page.click("a[data-run]")
    page.wait("document.querySelector('#run-view .plot svg')")
    told = page.run("""Object.fromEntries([...document.querySelectorAll('#run-view dl div')].map((one) =>
        [one.firstChild.textContent, one.lastChild.textContent]))""")
    assert told["command"] == "python run.py method=cll seed=0"
    assert told["command of certify, clean"] == "python run.py mode=eval 'eval=[certify,clean]'"
    assert told["certify, clean ran with"] == "device = cuda"
    assert not [key for key in told if key in ("command of autoattack", "autoattack ran with")]


def test_intervals_have_the_unit_of_their_row_and_nothing_measured_is_a_dash(page, runs_in, tmp_path):
    maker = runs_in(tmp_path / "runs")
    made = [fraction("s/none", 0, 0), fraction("s/all", 5, 5), Row("s/time", 1.5, "seconds", 3, (1.0, 2.0))]
    maker.write(maker.config(), metrics={}, rows=[{"suite": "s", **vars(row)} for row in made])
    page.open(write_page(maker.runs, tmp_path / "report.html"))
    page.click("a[data-run]")
    page.wait("document.querySelector('#run-view table.measured')")
    cells = "[...document.querySelectorAll('table.measured tbody tr')].map((row) => [...row.children]"
    assert page.run(f"{cells}.map((cell) => cell.textContent))") == [
        ["s/none", "–", "", "0", ""],
        ["s/all", "100.00 %", "56.6 – 100.0", "5", ""],
        ["s/time", "1.5", "1 – 2", "3", ""],
    ]


def test_the_keyboard_walks_opens_and_leaves(page, many):
    page.open(many[1])
    page.run("document.querySelector('#table-view tbody a').focus()")
    page.key("ArrowDown", 40)
    wanted = page.run("document.activeElement.dataset.run")
    page.key("Enter", 13)
    page.wait("!document.querySelector('#run-view').hidden")
    assert page.run("location.hash") == f"#run={wanted}"
    page.key("Escape", 27)
    assert page.run("document.querySelector('#run-view').hidden")
    assert page.run("document.activeElement.dataset.run") == wanted


def test_escape_returns_to_where_a_view_was_opened(page, many):
    shown = [found.id for found in reversed(collect(many[0]).results)]
    page.open(f"{many[1]}#run={shown[7]}")
    page.wait("document.querySelector('#run-view button:not([disabled])')")
    page.run("[...document.querySelectorAll('.steps button')].find((one) => one.textContent === 'next').click()")
    page.key("Escape", 27)
    assert page.run("document.activeElement.dataset.run") == shown[8], "the run that was open last"
    page.key("Enter", 13)
    page.run("history.back()")
    page.wait("document.querySelector('#run-view').hidden")
    assert page.run("document.activeElement.dataset.run") == shown[8]
    tick(page, 2, 6)
    page.click("#picked .strong")
    page.wait("!document.querySelector('#compare-view').hidden")
    page.key("Escape", 27)
    assert page.run("document.activeElement.dataset.focus") == "compare"


@pytest.mark.parametrize("view", ["#run=0000000000", "#view=compare"])
def test_escape_leaves_a_view_of_nothing(page, many, view):
    page.open(many[1] + view)
    page.wait("document.querySelector('[data-key=Escape]')")
    page.key("Escape", 27)
    assert rows(page) == 49
    assert not page.run("document.querySelector('#table-view').hidden")


def test_a_loss_that_spans_decades_has_a_log_scale(page, many):
    found = [found for found in collect(many[0]).results if found.values["status"] == "done"][-1]
    page.open(f"{many[1]}#run={found.id}")
    page.wait("document.querySelector('#run-view .plot svg')")
    scales = page.run("""Object.fromEntries([...document.querySelectorAll('.chart')].map((one) =>
        [one.querySelector('strong').textContent, one.querySelector('.scale').textContent]))""")
    assert scales == {"train/accuracy": "linear", "train/lipschitz": "linear", "train/loss": "log"}
    page.run("document.querySelector('.chart svg').focus()")
    page.key("Home", 36)
    assert text(page, ".readout").startswith("step 49")


def test_a_failed_run_shows_its_reason_as_text(page, many):
    page.open(many[1])
    page.click("#table-view tbody tr:first-child a")
    assert text(page, "#run-view .reason") == EVIL
    assert text(page, "#run-view h2") == EVIL
    assert EVIL in text(page, "#run-view pre:last-of-type")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('#run-view img').length") == 0


def test_two_runs_are_compared(page, many):
    page.open(many[1])
    tick(page, 2, 6)
    picked = page.run("[...document.querySelectorAll('[data-pick]:checked')].map((box) => box.dataset.pick)")
    assert len(picked) == 2
    page.click("#picked .strong")
    page.wait("document.querySelector('#compare-view .plot svg')")
    assert page.run("document.querySelectorAll('#compare-view .chart:first-child polyline').length") == 2
    keys = page.run("[...document.querySelectorAll('.settings-of tbody th')].map((one) => one.textContent)")
    configs = [found.config for found in collect(many[0], picked).results]
    assert "seed" not in keys or configs[0]["seed"] != configs[1]["seed"]
    assert ("method.name" in keys) == (configs[0]["method"]["name"] != configs[1]["method"]["name"])
    assert "model.name" not in keys
    metrics = page.run("[...document.querySelectorAll('.side tbody th')].map((one) => one.textContent)")
    assert "clean/accuracy" in metrics


def test_seeds_are_averaged(page, many):
    page.open(many[1] + "#view=seeds&where.method=cll&where.size=small&where.method.epsilon=1")
    values = [
        found.values["metrics"]["clean/accuracy"]
        for found in collect(many[0], ["method=cll", "size=small", "method.epsilon=1", "status=done"]).results
    ]
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    assert column(page, "clean/accuracy") == [f"{100 * mean:.1f} ± {100 * std:.1f}"]
    assert column(page, "n") == [str(len(values))]


def test_dark_and_light_by_the_system_and_by_the_button(page, many):
    def background():
        return page.run("getComputedStyle(document.body).backgroundColor")

    page.open(many[1])
    light = background()
    page.prefer("dark")
    dark = background()
    assert light != dark
    page.click("#theme")
    assert background() == light
    page.open(many[1])
    assert background() == light  # it is remembered
    page.run("localStorage.clear()")


@pytest.mark.parametrize("view", ["", "#view=seeds", "#run={id}", "#view=compare&picked={id}&picked={other}"])
def test_a_phone_scrolls_in_one_direction(page, many, view):
    found = collect(many[0]).results
    page.resize(375, 800, phone=True)
    page.open(many[1] + view.format(id=found[0].id, other=found[1].id))
    page.wait("document.querySelector('main > section:not([hidden])').childElementCount")
    assert page.run("document.documentElement.scrollWidth") == 375


def test_contrast_of_texts_is_that_of_wcag_aa(page, many):
    script = """(() => {
        const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const light = (colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((one) =>
                one / 255 <= 0.03928 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const probe = document.body.appendChild(document.createElement('i'));
        const of = (name) => { probe.style.color = `var(--${name})`; return light(getComputedStyle(probe).color); };
        const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return ['ink', 'soft', 'accent', 'done', 'failed', 'running', 'interrupted'].flatMap((text) =>
            ['page', 'surface', 'raised'].map((ground) => [text, ground, ratio(of(text), of(ground))]));
    })()"""
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        page.open(many[1])
        assert [found for found in page.run(script) if found[2] < 4.5] == []


def test_a_print_has_all_and_no_controls(page, many, tmp_path):
    page.open(many[1])
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page("Emulation.setEmulatedMedia", media="print")
    hidden = page.run("['.controls', '#views', '#theme'].every((one) => !document.querySelector(one).offsetParent)")
    page("Emulation.setEmulatedMedia", media="")
    assert hidden


def test_a_thousand_runs_open(page, runs_in, tmp_path):
    """How fast is printed (pytest -s); on an idle machine usable in 2 s, sorted and a run opened in 1 s."""
    maker = runs_in(tmp_path / "runs")
    maker.many(1000, curve=200, figure=100)
    out, begin = tmp_path / "report.html", time.perf_counter()
    url = write_page(maker.runs, out)
    wrote = time.perf_counter() - begin
    loaded = page.open(url)
    page.wait("performance.getEntriesByName('usable').length")
    usable = page.run("performance.getEntriesByName('usable')[0].startTime") / 1000
    begin = time.perf_counter()
    page.run(
        "(document.querySelector(\"th button[data-focus='sort clean/accuracy']\").click(), document.body.offsetHeight)"
    )
    sort = time.perf_counter() - begin
    begin = time.perf_counter()
    page.run("document.querySelector('#table-view tbody a').click()")
    page.wait("document.querySelector('#run-view .plot svg')")
    opened = time.perf_counter() - begin
    last = collect(maker.runs).results[0].id
    page.run(f"location.hash = 'run={last}'")
    page.wait(f"document.querySelector('#run-view h2')?.textContent.endsWith('{last}')")
    page.key("Escape", 27)
    assert page.run("document.activeElement.dataset.run") == last
    assert page.run("""(() => {
        const [link, table] = [document.activeElement, document.querySelector('.rows')].map((one) =>
            one.getBoundingClientRect());
        return table.top < link.top && link.bottom < table.bottom && link.bottom < innerHeight;
    })()"""), "its row is seen"
    print(
        f"\n1,000 runs: {out.stat().st_size / 1e6:.1f} MB written in {wrote:.1f} s; usable after {usable:.2f} s, "
        f"loaded after {loaded:.2f} s; sorted in {sort:.2f} s, a run opened in {opened:.2f} s"
    )

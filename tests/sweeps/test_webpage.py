import json
import math
import re
from html import escape

from lenet_jax.sweeps import webpage
from tests.support.chromium import browse, need_chromium

RATES = [0.1, 0.01, 1.0, 10.0]
OVERRIDES = {
    member: {"optimizer.learning_rate": rate, "model.init": "torch</script>", "seed": member}
    for member, rate in enumerate(RATES)
}
ROWS = [
    {
        "member": member,
        "status": "diverged" if member == 3 else "done",
        "valid_loss": None if member == 3 else 0.5,
        "valid_accuracy": None if member == 3 else accuracy,
        "test_loss": None if member == 3 else 0.5,
        "test_accuracy": None if member == 3 else accuracy,
        "best_epoch": 1,
        "diverged_step": 7 if member == 3 else None,
        "seconds": 1.0,
    }
    for member, accuracy in enumerate([0.9, 0.8, 0.95, 0.0])
]
CHECKS = """
<script>
const results = [
  passes(0.5, ""), passes(0.5, ">0.4"), passes(0.5, "0.1..0.5"), passes(0.5, "..1"),
  passes(0.5, ">=0.5"), passes(0.5, "0.5"), passes("torch", "or"), passes(null, ""),
  !passes(0.5, ">0.5"), !passes(0.5, "0.6.."), !passes("torch", "x"), !passes(null, ">0"),
  passes(95.38, ">=95 %"), passes(1 / 3, "0.3333", "0.3333"), passes(7, "a:7", "a:7"),
  makeAxis([1, 100, null]).at(10) === 0.5, makeAxis([1, 3]).at(2) === 0.5,
  makeAxis([1, 100], false).at(50.5) === 0.5, makeAxis([0, 100]).log === false,
  String(makeAxis([0.4, 0.003, 0.1, 0.1]).ticks) === "0.003,0.1,0.4",
  String(makeAxis([1, 2, 3, 4, 5, 6, 7, 8, 60]).ticks) === "1,2,5,10,20,50",
  String(makeAxis([9, 9.1, 9.2, 9.3, 9.4, 9.5, 9.6, 9.7, 10.3]).ticks) === "9,9.5,10",
  String(makeAxis(["12 32", "6 16"]).ticks) === "6 16,12 32",
  String(thin([0, 14, 16, 40, 50, 60])) === "0,2,3,5",
  show(95, 2) === "95.00", show(12345) === "12345", show(null, 2) === "–",
];
const input = document.querySelector("input[aria-label='filter of optimizer.learning_rate']");
input.value = "0.05..20";
input.dispatchEvent(new Event("input"));
document.querySelectorAll("th button")[1].click();
const press = (key) => {
  document.getElementById("lines").dispatchEvent(new KeyboardEvent("keydown", { key }));
};
press("End");
press("ArrowUp");
document.title = `wrong: ${results.flatMap((right, place) => (right ? [] : [place]))}`;
</script>
"""


def test_the_page_holds_every_member_and_escapes_what_it_is_given():
    page = webpage.render(ROWS, OVERRIDES, "a <b>", "a <b>, LeNet")
    assert f"<h1>Sweep {escape('a <b>, LeNet')}</h1>" in page and "4 members" in page
    assert page.count("</script>") == 2 and not re.search(r'(?:src|href)="(?!data:)', page)
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data == webpage.to_data([ROWS[i] for i in (2, 0, 1, 3)], OVERRIDES, "a <b>")
    assert [row[0] for row in data["rows"]] == [2, 0, 1, 3]  # the best first, the diverged last
    axes = [data["columns"][place]["name"] for place in data["axes"]]
    assert axes == ["optimizer.learning_rate", "model.init", "valid_accuracy", "test_accuracy"]


def test_shares_are_in_percent_and_what_is_no_number_is_left_out():
    row = ROWS[0] | {"test_accuracy": 0.9538, "probe_accuracy": 3.5, "seconds": math.nan}
    data = webpage.to_data([row, row | {"member": 1, "seconds": 2.0}], OVERRIDES, "a")
    cells = [column["name"] for column in data["columns"]], data["rows"][0]
    values = dict(zip(*cells, strict=True))
    units = {column["name"]: column["unit"] for column in data["columns"]}
    assert (values["test_accuracy"], units["test_accuracy"]) == (95.38, "%")
    assert (values["probe_accuracy"], units["probe_accuracy"]) == (3.5, None)
    assert values["seconds"] is None


def test_of_many_members_the_best_are_on_the_page(monkeypatch):
    monkeypatch.setattr(webpage, "MOST_MEMBERS", 2)
    page = webpage.render(ROWS, OVERRIDES, "a", "a")
    assert "4 members, the best 2 of which are here" in page and '"rows": [[2, ' in page
    assert "[1, 0.01" not in page


def test_chromium_sorts_and_filters_the_members(tmp_path):
    need_chromium()
    page = webpage.render(ROWS, OVERRIDES, "a", "a").replace("</body>", f"{CHECKS}</body>")
    (tmp_path / "sweep.html").write_text(page, encoding="utf-8")
    dom, console = browse(tmp_path / "sweep.html", tmp_path)
    assert console == []
    assert "<title>wrong: </title>" in dom
    assert "3 of 4 shown" in dom and dom.count(' role="option"') == 3
    body = dom.partition("<tbody>")[2].partition("</tbody>")[0]
    assert re.findall(r"<tr[^>]*><th scope=\"row\">([^<]+)</th>", body) == ["a:3", "a:2", "a:0"]
    assert "<td>95.00</td>" in body and "<td>90.00</td>" in body
    head = dom.partition("<thead>")[2].partition("</thead>")[0]
    assert head.count('aria-sort="descending"') == 1 and head.count('aria-sort="none"') == 11
    assert 'aria-label="filter of test_accuracy, %" placeholder="in %"' in head

    said = "a:2: optimizer.learning_rate 1, model.init torch&lt;/script&gt;, valid_accuracy 95.00 %"
    assert f'<p id="reading">{said}, test_accuracy 95.00 %</p>' in dom
    assert 'aria-activedescendant="member-2"' in dom and dom.count('aria-selected="true"') == 1
    colours = re.findall(r'id="member-(\d)"[^>]*--at: (\d+)', dom)
    assert sorted(colours) == [("0", "66"), ("2", "100")]

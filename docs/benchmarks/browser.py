"""Opens reports in a real browser: times, every click path, and the pictures of docs/report.md. Writes the table of that page.

Run it with ``tox run -e browser``. It needs Chromium: Debian's package ``chromium``, or what the variable ``CHROMIUM`` names.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import depgraph as dg

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DATA, PAGE, FIGURES = ROOT / "docs/benchmarks/browser.json", ROOT / "docs/report.md", ROOT / "docs/figures"
BEGIN, END = "<!-- times: written by `tox run -e browser` -->\n", "<!-- times end -->\n"
SECONDS, BYTES = 1.0, 1_000_000
"""A report opens in so many seconds more than an empty page, and is so large, at most."""
ROUNDS = 5
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


Making: TypeAlias = Callable[[], Any]
"""Makes a report of what is at hand."""


@cache
def _traced(name: str) -> tuple[dg.Graph, torch.nn.Module]:
    """The graph and the model, of those that plan files are measured with."""
    from plan_sizes import MODELS

    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return dg.trace(model, *inputs), model


def _random_scores(graph: dg.Graph) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    return {group.name: torch.rand(group.size, generator=generator).tolist() for group in graph.groups}


def resnet50() -> Making:
    """Two plans by magnitude, half of the MACs and half of the parameters, with scores and what an engine asks."""
    graph, model = _traced("ResNet-50")
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    plans = [dg.plan(graph, scores, macs=0.5), dg.plan(graph, scores, params=0.5)]
    return partial(dg.report, graph, *plans, scores=scores, engine="onnxruntime", title="ResNet-50")


def llama_70b() -> Making:
    """Two plans by random scores, which have no pattern to make them short; random scores for every index."""
    graph, _ = _traced("Llama of 70B")
    scores = _random_scores(graph)
    plans = [dg.plan(graph, scores, macs=share) for share in (0.5, 0.7)]
    memory = dg.Memory(cache_tokens=8192, batch=8)
    return partial(dg.report, graph, *plans, scores=scores, engine="vllm", memory_model=memory, title="Llama of 70B")


def _in_turn(name: str, count: int, scored: Callable[[dg.Graph, Any], Any]) -> Making:
    """Plans of one model for ever fewer MACs."""
    graph, model = _traced(name)
    scores = scored(graph, model)
    plans = [dg.plan(graph, scores, macs=0.95 - 0.7 * step / (count - 1)) for step in range(count)]
    return partial(dg.report, graph, plans=plans, scores=scores, title=f"{name}, {count} plans")


def resnet50_in_turn() -> Making:
    """Eight plans by magnitude."""
    return _in_turn("ResNet-50", 8, lambda graph, model: dg.score(graph, model, dg.Magnitude(p=2)))


def llama_70b_in_turn() -> Making:
    """Five plans by random scores."""
    return _in_turn("Llama of 70B", 5, lambda graph, _: _random_scores(graph))


class Residual(torch.nn.Module):
    """A block that an identity can take the place of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x).relu()


class Blocks(torch.nn.Module):
    """Residual blocks, of which some may leave, and one that has the name of an element of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(8, 16)
        self.blocks = torch.nn.ModuleList(Residual() for _ in range(4))
        self.named = torch.nn.ModuleDict({HOSTILE.replace(".", ""): torch.nn.Linear(16, 12)})
        self.head = torch.nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.named[HOSTILE.replace(".", "")](x).relu())


def dropped() -> Making:
    """A plan that takes an element out of a list."""
    graph = dg.trace(Blocks(), torch.zeros(2, 8))
    return partial(dg.report, graph, dg.drop(graph, "blocks", [2]), title=f"Blocks {HOSTILE}")


SUBJECTS: dict[str, Callable[[], Making]] = {
    "ResNet-50": resnet50,
    "ResNet-50, 8 plans": resnet50_in_turn,
    "Llama of 70B": llama_70b,
    "Llama of 70B, 5 plans": llama_70b_in_turn,
    "Dropped block": dropped,
}


def opened(browser: Browser, path: Path, scheme: Any = "light", width: int = 1400) -> Page:
    """The page in a window of its own. Any request, error or message in the console is a failure."""
    page = browser.new_page(viewport={"width": width, "height": 950}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.wait_for_selector("#whole svg")
    page.wait_for_timeout(50)
    assert not faults, faults
    page.faults = faults  # type: ignore[attr-defined]
    return page


def seconds_to_open(browser: Browser, path: Path) -> tuple[float, float]:
    """From the request to the first picture after the script has run, and the processor's part of it on the page's thread.

    It is opened in a context of its own, in which nothing is in a cache.
    """
    context = browser.new_context()
    page = context.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    taken = time.perf_counter() - start
    metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    return taken, metrics["TaskDuration"]


def opening(browser: Browser, path: Path, empty: Path) -> dict[str, float]:
    """The medians of some rounds; in each one an empty page is opened too, for what the browser and the machine take anyway."""
    rounds = [(*seconds_to_open(browser, path), seconds_to_open(browser, empty)[0]) for _ in range(ROUNDS)]
    return {
        name: round(statistics.median(values), 2)
        for name, values in zip(("open", "busy", "empty"), zip(*rounds, strict=True), strict=True)
    }


CROSSING = """() => [...document.querySelectorAll(".picture svg")].flatMap((image) => {
    const parts = [...image.querySelectorAll(".node rect, .plate")].map((part) => [part, part.getBBox()]);
    const along = (a, wide, b, other) => a < b + other - 1 && b < a + wide - 1;
    const meet = ([, a], [, b]) => along(a.x, a.width, b.x, b.width) && along(a.y, a.height, b.y, b.height);
    const upon = parts.filter((one, k) => parts.slice(k + 1).some((other) => meet(one, other)));
    const texts = [...image.querySelectorAll(".node text")];
    const wide = texts.filter((text) => text.getBBox().width > text.parentNode.querySelector("rect").getBBox().width);
    return [...upon.map(([part]) => part.parentNode), ...wide].map((each) => each.textContent); })"""
"""Texts of boxes of drawings that lie upon each other or upon the text of an arrow, and that are wider than their box."""


def nothing_cut_off(page: Page) -> None:
    """No part of the page is wider than the window, and no text is cut off or lies on another."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    cut = page.evaluate(
        """() => [...document.querySelectorAll("button, td, dd, h1, h2, .card, .row, .label, .what")]
            .filter((each) => each.scrollWidth > each.clientWidth + 1 && each.clientWidth).map((each) => each.textContent)"""
    )
    assert not cut, f"cut off: {cut[:5]}"
    upon = page.evaluate(
        """() => { const rows = [...document.querySelectorAll("#tree .row")].map((row) => row.getBoundingClientRect());
            return rows.filter((row, k) => k && row.top < rows[k - 1].bottom - 1).length; }"""
    )
    assert not upon, f"{upon} rows lie upon the one before"
    crossing = page.evaluate(CROSSING)
    assert not crossing, f"in drawings, boxes or texts lie upon each other: {crossing[:5]}"


def click_paths(browser: Browser, path: Path) -> None:
    """Everything that can be clicked or typed in the report of two plans of ResNet-50 does what it says."""
    page = opened(browser, path)
    tree, detail = page.locator("#tree"), page.locator("#detail")
    axis = page.locator("button.axis[data-key='conv1.weight:0']")
    axis.click()
    expect(detail).to_contain_text("7 coupled axes")
    expect(detail).to_contain_text("aten.batch_norm at models/resnet.py")
    lit = page.locator("button.axis.lit").evaluate_all("all => all.map(each => each.dataset.key)")
    assert {"conv1.weight:0", "bn1.weight:0", "bn1.bias:0", "bn1.running_mean:0", "bn1.running_var:0"} <= set(lit), lit
    assert not any(key.startswith("fc") for key in lit), lit
    assert "axis=conv1.weight" in page.url
    detail.get_by_role("button", name="layer1.0.conv1.weight dim 1").click()  # a coupled axis that was folded away
    expect(page.locator("button.axis.chosen")).to_have_attribute("data-key", "layer1.0.conv1.weight:1")
    expect(page.locator("button.axis.chosen")).to_be_focused()
    detail.get_by_role("button", name="maxpool").first.click()  # a node of the chain: its neighbourhood is drawn
    expect(detail.locator("svg .centre")).to_have_attribute("aria-label", "maxpool")
    assert detail.locator("svg .node").count() > 5 and detail.locator("svg .edge.lit").count() > 1
    detail.locator("svg .node[aria-label=relu]").press("Enter")
    expect(detail.locator("svg .centre")).to_have_attribute("aria-label", "relu")
    assert page.url.endswith("#node=relu")
    page.locator("button.axis[data-key='conv1.weight:2']").click()  # a pinned axis
    expect(detail).to_contain_text("it is a kernel axis of")
    expect(detail).to_contain_text("to free it")
    page.get_by_role("button", name="Collapse").click()
    expect(tree.locator(".row")).to_have_count(len({"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}))
    page.get_by_role("button", name="Expand all").click()
    assert tree.locator(".axis").count() > 100
    select = tree.locator("select").first
    select.select_option(label="2")
    expect(tree.locator("[data-key^='layer1.2.conv1.weight']").first).to_be_visible()
    page.locator("#filter").fill("layer4.2.conv3")
    assert tree.locator(".axis").evaluate_all("all => all.every(each => each.dataset.key.startsWith('layer4.2.conv3'))")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Where the plans differ").click()  # opens the section, which is long
    page.locator("#difference .link").first.click()
    expect(page.locator("button.axis.chosen")).to_be_visible()
    for link in page.locator("#nav a").all():
        link.click()
        expect(page.locator(link.get_attribute("href") or "")).to_be_visible()
    expect(page.locator("#pinned p")).to_contain_text("25,556,032 of 25,557,032 parameters (99.9\u00a0%)")  # not all of them
    expect(page.locator("#legend")).to_contain_text("some of each")
    for title in ("Plan 1: attribute edits", "Plan 2: attributes that forward does not read"):
        expect(page.get_by_role("link", name=title)).to_be_visible()
    summary = page.locator("#pinned summary")
    summary.click()
    expect(page.locator("#pinned table")).to_be_hidden()
    summary.press("Enter")
    expect(page.locator("#pinned table")).to_be_visible()
    expect(page.locator(".card[data-name=memory]")).to_contain_text("weights of 16 bits51.1 MB → ")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert not page.faults, page.faults  # type: ignore[attr-defined]
    page.close()


def the_whole(browser: Browser, path: Path) -> None:
    """The drawing of the whole: a box chooses its module, an inner box goes on from there, by the mouse and by keys."""
    page = opened(browser, path)
    whole, tree, detail = page.locator("#whole"), page.locator("#tree"), page.locator("#detail")
    boxes = whole.locator(".node").evaluate_all("all => all.map(each => each.querySelector('text').textContent)")
    assert (
        boxes[:4] == ["input[0]", "conv1", "bn1", "maxpool"]
        and "layer3.1-5 \N{MULTIPLICATION SIGN}5" in boxes
        and len(boxes) == 15
    ), boxes
    assert "256 → " in (whole.locator("svg").text_content() or "")
    nothing_cut_off(page)
    whole.locator(".node[aria-label='layer3.1']").click()
    assert page.url.endswith("#module=layer3.1")
    expect(tree.locator(".row.chosen .toggle")).to_have_attribute("data-key", "layer3.1")
    expect(tree.locator(".row.chosen")).to_be_in_viewport()
    expect(whole.locator(".centre")).to_have_attribute("aria-label", "layer3.1")
    expect(detail).to_contain_text("layer3.{1-5}")
    nothing_cut_off(page)
    detail.locator(".node[aria-label='layer3.1.conv2']").click()  # a box of the inside
    expect(tree.locator(".row.chosen .toggle")).to_have_attribute("data-key", "layer3.1.conv2")
    expect(detail.locator("svg .centre")).to_have_attribute("aria-label", "layer3.1.conv2")
    expect(whole.locator(".centre")).to_have_attribute("aria-label", "layer3.1")
    whole.locator(".node[aria-label=maxpool]").click()  # it has no parameters, so it is not in the tree
    expect(detail).to_contain_text("Around maxpool")
    page.locator("button.axis[data-key='conv1.weight:0']").click()
    lit = whole.locator(".has-lit").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    assert lit == ["conv1", "bn1", "layer1.0"], lit
    assert whole.locator(".edge.lit").count() == 3
    page.keyboard.press("Escape")
    expect(whole.locator(".has-lit, .centre")).to_have_count(0)
    whole.locator(".node[aria-label=conv1]").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(whole.locator(".node[aria-label=maxpool]")).to_be_focused()
    expect(whole.locator(".centre")).to_have_attribute("aria-label", "maxpool")
    tree.locator(".row", has=page.locator("[data-key='layer1.0']")).get_by_role("button", name="drawing").click()
    expect(detail.locator(".node[aria-label='layer1.0.downsample.0']")).to_be_visible()
    whole.locator("summary").click()
    expect(whole.locator("svg")).to_be_hidden()
    page.goto(f"{path.as_uri()}#module=layer2.2")
    page.reload()
    expect(tree.locator(".row.chosen select")).to_have_value("1")
    expect(page.locator("#detail h2")).to_have_text("layer2.2")
    assert not page.faults, page.faults  # type: ignore[attr-defined]
    page.close()


def in_turn(browser: Browser, path: Path) -> None:
    """Eight plans of ResNet-50, one at a time: by the slider, its keys, the buttons and the table of plans."""
    page = opened(browser, path)
    name, slider = page.locator("#turn-name"), page.locator("#turn-range")
    macs, axis = page.locator(".card[data-name=macs]"), page.locator("button.axis[data-key='conv1.weight:0']")
    page.get_by_role("link", name="Attribute edits").click()
    axis.click()
    seen = []

    def now() -> list[str]:
        parts = [
            name,
            macs,
            axis,
            page.locator("#edits-0, #edits-1, #edits-7, #edits-4"),
            page.locator("#whole svg"),
            page.locator("#detail"),
        ]
        return [part.text_content() or "" for part in parts]

    def turned(place: int) -> None:
        expect(name).to_have_text(f"Plan {place} of 8")
        expect(slider).to_have_value(str(place))
        expect(page.locator("button.axis.chosen")).to_have_attribute("data-key", "conv1.weight:0")
        expect(page.locator("#plans [aria-pressed=true]")).to_have_text(f"plan {place}")
        nothing_cut_off(page)
        seen.append(now())

    expect(page.locator("#turn-back")).to_be_disabled()
    turned(1)
    slider.focus()
    page.keyboard.press("ArrowRight")
    turned(2)
    expect(slider).to_be_focused()
    page.keyboard.press("End")
    turned(8)
    expect(page.locator("#turn-on")).to_be_disabled()
    link = page.locator("#plans").get_by_role("button", name="plan 5")
    link.click()
    turned(5)
    expect(link).to_be_focused()
    assert all(len(set(column)) == 4 for column in zip(*seen, strict=True)), "each plan shows something else everywhere"
    page.locator("#turn-on").click()
    page.locator("#turn-back").click()
    expect(name).to_have_text("Plan 5 of 8")
    assert now() == seen[-1]
    assert not page.faults, page.faults  # type: ignore[attr-defined]
    page.close()


def keys_alone(browser: Browser, path: Path) -> None:
    """The tree without a mouse: arrows move, open and close, Enter chooses, / filters, Escape clears; an address leads back."""
    page = opened(browser, path)
    page.locator("#tree .toggle").first.focus()
    page.keyboard.press("ArrowLeft")  # closes
    expect(page.locator("#tree .toggle").first).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowRight")  # opens
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("button.axis.chosen")).to_have_attribute("data-key", "conv1.weight:0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("button.axis[data-key='conv1.weight:1']")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("bn1")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("button.axis.lit")).to_have_count(0)
    page.goto(f"{path.as_uri()}#axis=layer2.1.conv2.weight:0")
    page.reload()
    expect(page.locator("button.axis.chosen")).to_have_attribute("data-key", "layer2.1.conv2.weight:0")
    page.close()


def only_text(browser: Browser, path: Path) -> None:
    """A module with the name of an element of HTML is text; its element of the list goes and is told of."""
    page = opened(browser, path)
    assert page.title() == f"Blocks {HOSTILE}"
    expect(page.locator("#tree")).to_contain_text("<script>alert(1)</script>")
    page.get_by_role("button", name="Expand all").click()
    page.locator("button.axis[data-key='head.weight:1']").click()
    expect(page.locator("#detail")).to_contain_text("<img src=x onerror=alert(2)>")
    assert page.locator("img, iframe, #tree script, #detail script").count() == 0
    expect(page.locator("#drops-0")).to_contain_text("3 → 2")
    expect(page.locator("#tree")).to_contain_text("1 go")
    nothing_cut_off(page)
    assert not page.faults, page.faults  # type: ignore[attr-defined]
    page.close()


def pictures(browser: Browser, path: Path, name: str, axis: str, node: str) -> None:
    """Light, dark, grey, narrow, and what a printer gets."""
    for scheme in ("light", "dark"):
        page = opened(browser, path, scheme)
        page.locator(f"button.axis[data-key='{axis}']").click()
        nothing_cut_off(page)
        save(page.screenshot(), f"report_{name}_{scheme}")
        page.locator("#detail").get_by_role("button", name=node, exact=True).first.click()
        page.locator("#detail svg .centre").scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        save(page.screenshot(), f"report_{name}_{scheme}_drawing")
        page.evaluate("document.querySelector('#sections').scrollIntoView()")
        save(page.screenshot(), f"report_{name}_{scheme}_sections")
        page.close()
    page = opened(browser, path, width=420)
    nothing_cut_off(page)
    save(page.screenshot(), f"report_{name}_narrow")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 800, "height": 1100})
    save(page.screenshot(), f"report_{name}_print")
    page.close()


def more_pictures(browser: Browser, paths: Mapping[str, Path]) -> None:
    """The inside of a layer of the Llama, and one of eight plans."""
    for scheme in ("light", "dark"):
        page = opened(browser, paths["Llama of 70B"], scheme, width=1700)
        page.locator("#whole .node[aria-label='model.layers.0']").click()
        page.locator("#detail .picture").scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        nothing_cut_off(page)
        save(page.screenshot(), f"report_llama70b_{scheme}_inside")
        page.close()
    page = opened(browser, paths["ResNet-50, 8 plans"])
    page.locator("#turn-range").fill("4")
    page.locator("button.axis[data-key='conv1.weight:0']").click()
    nothing_cut_off(page)
    save(page.screenshot(), "report_resnet50_light_plans")
    page.close()


def save(png: bytes, name: str) -> None:
    """A picture in few bytes: 128 colours, of which each is near to what it stands for, however rare that is."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(FIGURES / f"{name}.png", optimize=True)


def grey(browser: Browser, path: Path) -> dict[str, dict[str, int]]:
    """How bright what stays and what goes are without colours, of 255; far enough from each other in both schemes."""
    found = {}
    for scheme in ("light", "dark"):
        page = opened(browser, path, scheme)
        shots = [page.locator("#legend .swatch").nth(place).screenshot() for place in (0, 1)]
        images = [Image.open(io.BytesIO(shot)).convert("L") for shot in shots]
        kept, gone = (image.getpixel((image.width // 2, image.height // 2)) for image in images)
        assert abs(kept - gone) > 70, (scheme, kept, gone)  # type: ignore[operator]
        found[scheme] = {"stays": kept, "goes": gone}
        page.close()
    return found  # type: ignore[return-value]


def table(data: dict[str, Any]) -> str:
    """The table of the page."""
    rows = [
        f"| report | bytes | CPU seconds to make | to open, median of {ROUNDS} | an empty page beside it | script and layout |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {name} | {item['bytes']:,} | {item['make']} | {item['open']} | {item['empty']} | {item['busy']} |"
        for name, item in data["reports"].items()
    ]
    shades = "; ".join(f"{scheme}: {item['stays']} and {item['goes']}" for scheme, item in data["grey"].items())
    return "\n".join(rows) + f"\n\nChromium {data['chromium']}. What stays and what goes in grey, of 255: {shades}.\n"


def main() -> None:
    """Make, open, click, look; write the table."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium: apt-get install chromium, or name its program by the variable CHROMIUM")
    reports: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        paths = {name: Path(folder) / f"{place}.html" for place, name in enumerate(SUBJECTS)}
        empty = Path(folder) / "empty.html"
        empty.write_text('<!DOCTYPE html><html lang="en" data-ready="true"><title>empty</title></html>')
        for name, prepared in SUBJECTS.items():
            make = prepared()
            start = time.process_time()
            make().save(paths[name])
            made = time.process_time()
            size = paths[name].stat().st_size
            reports[name] = {"bytes": size, "make": round(made - start, 1), **opening(browser, paths[name], empty)}
            print(name, reports[name], flush=True)
            more = reports[name]["open"] - reports[name]["empty"]
            assert size < BYTES and more < SECONDS, (
                f"{name}: at most {BYTES:,} bytes, and {SECONDS} seconds more than an empty page"
            )
        click_paths(browser, paths["ResNet-50"])
        the_whole(browser, paths["ResNet-50"])
        in_turn(browser, paths["ResNet-50, 8 plans"])
        keys_alone(browser, paths["ResNet-50"])
        only_text(browser, paths["Dropped block"])
        shades = grey(browser, paths["ResNet-50"])
        pictures(browser, paths["ResNet-50"], "resnet50", "conv1.weight:0", "maxpool")
        first = "model.layers.0.self_attn"
        pictures(browser, paths["Llama of 70B"], "llama70b", f"{first}.q_proj.weight:0", f"{first}.view")
        more_pictures(browser, paths)
        data = {"chromium": browser.version, "reports": reports, "grey": shades}
        browser.close()
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table(data)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()

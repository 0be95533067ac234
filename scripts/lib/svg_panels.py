"""Pictures of the dashboard's panels as SVG, drawn from what a Prometheus answered: for the documents, where Grafana is not at hand."""

from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 460, 190, 56, 34, 14
COLOURS = ["#3274d9", "#e0752d", "#56a64b", "#b877d9", "#c9a000", "#e02f44", "#37872d", "#5794f2", "#8f3bb8", "#ff9830"]
LEGEND_LINES = 4


def units(number, unit):
    """A number as an axis says it."""
    if unit == "percentunit":
        return f"{100 * number:.0f} %"
    if unit == "s":
        return (
            f"{number * 1e6:.0f} µs"
            if 0 < number < 1e-3
            else f"{number * 1e3:.0f} ms"
            if number < 1
            else f"{number:.1f} s"
        )
    end = {"reqps": "/s", "ops": "/s"}.get(unit, "")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}{end}"
    return f"{number:.3g}{end}"


def legend(text, labels):
    for key, value in labels.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def panel(title, unit, lines, start, end, most=None):
    """One panel: `lines` is [(legend, [(seconds, number)])]."""
    out = [f'<text class="title" x="10" y="20">{escape(title)}</text>']
    plot_width, plot_height = WIDTH - LEFT - GAP, HEIGHT - TOP - 22
    high = (
        most or max((number for _, points in lines for _, number in points if number == number), default=1) * 1.08 or 1
    )
    for nth in range(4):
        y = TOP + plot_height * (1 - nth / 3)
        out.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - GAP}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{units(high * nth / 3, unit)}</text>'
        )
    for nth in range(3):
        x = LEFT + plot_width * nth / 2
        text = f"{(end - start) * nth / 2:.0f} s"
        anchor = ("start", "middle", "end")[nth]
        out.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    for nth, (_, points) in enumerate(lines):
        parts, pen = [], "M"
        for at, number in points:
            if number != number:
                pen = "M"
                continue
            x = LEFT + plot_width * (at - start) / max(end - start, 1)
            y = TOP + plot_height * (1 - min(number, high) / high)
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        if parts:
            out.append(f'<path d="{"".join(parts)}" stroke="{COLOURS[nth % len(COLOURS)]}"/>')
    height = HEIGHT
    shown = lines[: 2 * LEGEND_LINES]
    for nth, (name, points) in enumerate(shown):
        x, y = 10 + (nth % 2) * WIDTH / 2, HEIGHT + 14 + 16 * (nth // 2)
        last = next((number for _, number in reversed(points) if number == number), None)
        value = "" if last is None else f"  {units(last, unit)}"
        out.append(f'<rect x="{x}" y="{y - 8}" width="10" height="4" fill="{COLOURS[nth % len(COLOURS)]}"/>')
        out.append(f'<text class="axis" x="{x + 15}" y="{y}">{escape(name[:34] + value)}</text>')
        height = y + 8
    return out, height


def picture(panels, start, end):
    """All panels, two in a row; each is (title, unit, lines, most)."""
    out, top, row_height = [], 0, 0
    for nth, (title, unit, lines, most) in enumerate(panels):
        inner, height = panel(title, unit, lines, start, end, most)
        left = (nth % 2) * (WIDTH + GAP)
        if nth % 2 == 0 and nth:
            top, row_height = top + row_height + GAP, 0
        row_height = max(row_height, height)
        out += [f'<g transform="translate({left} {top})">', *inner, "</g>"]
    width, height = 2 * WIDTH + GAP, top + row_height + GAP
    style = (
        "svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600}.axis{font-size:11px;fill:#666}"
        ".grid{stroke:#ddd}path{fill:none;stroke-width:1.6}"
        "@media(prefers-color-scheme:dark){svg{background:#181b1f}text{fill:#ddd}.axis{fill:#999}.grid{stroke:#333}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}">'
        f"<style>{style}</style>{''.join(out)}</svg>\n"
    )

//! Small multiples of lines over a logarithmic axis, as SVG: what a README can show.

use std::fmt::Write as _;

/// What is drawn. Colours tell one kind of lines from another, marks a second; both are explained above the panels.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub subtitle: String,
    /// Shown in red.
    pub warning: Option<String>,
    /// What the axes are of.
    pub x: String,
    pub y: String,
    /// At most as many as there are [`COLOURS`].
    pub colours: Vec<String>,
    /// At most as many as there are shapes in [`shape`].
    pub marks: Vec<String>,
    /// All with the same axes, two beside each other.
    pub panels: Vec<Panel>,
}

/// Lines in a frame.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    pub lines: Vec<Line>,
}

/// Points from left to right; x is above 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub colour: usize,
    pub mark: usize,
    pub points: Vec<(f64, f64)>,
}

/// On white, on black, and the dashes: for whoever sees no colours. Blue and vermilion of Okabe and Ito, "Color
/// universal design" (2008), with their lighter neighbours on black.
pub const COLOURS: [(&str, &str, &str); 2] = [("#0072b2", "#56b4e9", "none"), ("#d55e00", "#e69f00", "6 4")];

const WIDTH: f64 = 800.0;
const PANEL_HEIGHT: f64 = 260.0;
/// Around a panel's frame: numbers and names of the axes, its title.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const ABOVE: f64 = 40.0;
const BELOW: f64 = 48.0;
/// From the frame to the first and the last point.
const INSET: f64 = 16.0;
/// Lines of text above the panels.
const LEADING: f64 = 22.0;
/// Below everything.
const END: f64 = 6.0;
/// What a letter takes, roughly.
const LETTER: f64 = 6.5;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.warning { fill: #b3261e; font-weight: 600; }
.name { font-weight: 600; }
.page { fill: #ffffff; }
.grid { stroke: #d8dee4; }
.one { stroke: #6e7781; stroke-width: 1.5; }
.frame { fill: none; stroke: #8c959f; }
polyline, .key { fill: none; stroke-width: 2; }
.marks { stroke: #ffffff; stroke-width: 0.8; }
";

const STYLE_DARK: &str = "\
text { fill: #e6edf3; }
.warning { fill: #ff8a80; }
.page { fill: #0d1117; }
.grid { stroke: #30363d; }
.one { stroke: #9198a1; }
.frame { stroke: #656c76; }
.marks { stroke: #0d1117; }
";

/// Where numbers are in a frame.
struct Axes {
    /// log2 of the first and the last x.
    x: (f64, f64),
    x_ticks: Vec<f64>,
    y: (f64, f64),
    y_ticks: Vec<f64>,
    /// Of the numbers at the ticks.
    digits: usize,
}

/// A frame on the page.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: f64,
    top: f64,
    width: f64,
}

/// The chart as a document of its own, light or dark as its reader is.
pub fn svg(chart: &Chart) -> String {
    let axes = Axes::of(&chart.panels);
    let beside = chart.panels.len().clamp(1, 2);
    let mut head = Head::new();
    head.text("title", &chart.title);
    head.text("", &chart.subtitle);
    if let Some(warning) = &chart.warning {
        head.text("warning", warning);
    }
    head.keys(&chart.colours, |number, x, y| {
        format!(
            r#"<g class="c{number}"><path class="key" d="M{x:.1} {y:.1}h26"/></g>"#,
            x = x - 13.0
        )
    });
    head.keys(&chart.marks, |number, x, y| {
        format!(r#"<path class="mark" d="{}"/>"#, shape(number, x, y))
    });
    let width = WIDTH / beside as f64;
    let rows = chart.panels.len().div_ceil(beside);
    let height = head.end + END + rows as f64 * (ABOVE + PANEL_HEIGHT + BELOW);
    let mut body = String::new();
    for (number, panel) in chart.panels.iter().enumerate() {
        let frame = Frame {
            left: (number % beside) as f64 * width + LEFT,
            top: head.end + (number / beside) as f64 * (ABOVE + PANEL_HEIGHT + BELOW) + ABOVE,
            width: width - LEFT - RIGHT,
        };
        draw(panel, chart, &axes, frame, &mut body);
    }
    let (title, style) = (escape(&chart.title), style());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\">\n<title>{title}</title>\n<style>\n{style}</style>\n<rect class=\"page\" width=\"{WIDTH}\" \
         height=\"{height}\"/>\n{}{body}</svg>\n",
        head.text
    )
}

fn style() -> String {
    let (mut light, mut dark) = (String::from(STYLE), String::from(STYLE_DARK));
    let rule = |name: &str, colour: &str| format!("{name} {{ stroke: {colour}; fill: {colour}; }}\n");
    light += &rule(".mark", "#57606a");
    dark += &rule(".mark", "#9198a1");
    for (number, (on_white, on_black, dashes)) in COLOURS.iter().enumerate() {
        light += &rule(&format!(".c{number}"), on_white);
        dark += &rule(&format!(".c{number}"), on_black);
        let _ = writeln!(
            light,
            ".c{number} polyline, .c{number} .key {{ stroke-dasharray: {dashes}; }}"
        );
    }
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

/// The lines of text above the panels.
struct Head {
    text: String,
    end: f64,
}

impl Head {
    fn new() -> Head {
        Head {
            text: String::new(),
            end: 8.0,
        }
    }

    fn text(&mut self, class: &str, text: &str) {
        self.end += LEADING;
        let (y, text) = (self.end, escape(text));
        let _ = writeln!(self.text, r#"<text class="{class}" x="18" y="{y}">{text}</text>"#);
    }

    /// Names with what stands for them, which `drawn` draws around a point.
    fn keys(&mut self, names: &[String], drawn: impl Fn(usize, f64, f64) -> String) {
        self.end += LEADING;
        let mut x = 31.0;
        for (number, name) in names.iter().enumerate() {
            let (key, y) = (drawn(number, x, self.end - 4.0), self.end);
            let (at, escaped) = (x + 18.0, escape(name));
            let _ = writeln!(
                self.text,
                r#"{key}<text class="key-name" x="{at:.1}" y="{y}">{escaped}</text>"#
            );
            x = at + LETTER * name.chars().count() as f64 + 30.0;
        }
    }
}

impl Axes {
    /// Those that hold all points, and a y of 1.
    fn of(panels: &[Panel]) -> Axes {
        let points = || {
            panels
                .iter()
                .flat_map(|panel| &panel.lines)
                .flat_map(Line::drawable)
        };
        let mut x_ticks: Vec<f64> = points().map(|(x, _)| x).collect();
        x_ticks.sort_by(f64::total_cmp);
        x_ticks.dedup();
        let x = match (x_ticks.first(), x_ticks.last()) {
            (Some(&first), Some(&last)) if first < last => (first.log2(), last.log2()),
            // One x stands in the middle.
            (Some(&only), _) => (only.log2() - 1.0, only.log2() + 1.0),
            _ => (0.0, 1.0),
        };
        let (low, high) = points().fold((1.0_f64, 1.0_f64), |(low, high), (_, y)| {
            (low.min(y), high.max(y))
        });
        let (step, digits) = step((high - low).max(0.02) / 8.0);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let y_ticks = (0..=(last - first) as usize).map(|tick| (first + tick as f64) * step);
        Axes {
            x,
            x_ticks,
            y: (first * step, last * step),
            y_ticks: y_ticks.collect(),
            digits,
        }
    }

    fn place(&self, frame: Frame, (x, y): (f64, f64)) -> (f64, f64) {
        let across = (x.log2() - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (
            frame.left + INSET + across * (frame.width - 2.0 * INSET),
            frame.top + PANEL_HEIGHT * (1.0 - up),
        )
    }
}

impl Line {
    /// What can be placed.
    fn drawable(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.points.iter().copied();
        points.filter(|(x, y)| *x > 0.0 && x.is_finite() && y.is_finite())
    }
}

/// The next of 1, 2 and 5 times a power of ten, and the digits behind the point that its multiples have.
fn step(least: f64) -> (f64, usize) {
    let power = least.log10().floor() as i32;
    let (times, power) = [(1.0, power), (2.0, power), (5.0, power), (1.0, power + 1)]
        .into_iter()
        .find(|(times, power)| times * 10_f64.powi(*power) >= 0.999 * least)
        .unwrap_or((1.0, power + 1));
    (times * 10_f64.powi(power), (-power).max(0) as usize)
}

fn draw(panel: &Panel, chart: &Chart, axes: &Axes, frame: Frame, to: &mut String) {
    let Frame { left, top, width } = frame;
    let (right, bottom) = (left + width, top + PANEL_HEIGHT);
    let mut text = |class: &str, anchor: &str, (x, y): (f64, f64), text: &str| {
        let text = escape(text);
        let _ = writeln!(
            to,
            r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        );
    };
    text("name", "start", (left, top - 10.0), &panel.title);
    text("", "middle", (left + width / 2.0, bottom + 36.0), &chart.x);
    text("", "end", (right, top - 10.0), &chart.y);
    for &tick in &axes.y_ticks {
        let (_, y) = axes.place(frame, (1.0, tick));
        text(
            "y-tick",
            "end",
            (left - 8.0, y + 4.0),
            &format!("{tick:.0$}", axes.digits),
        );
    }
    for &tick in &axes.x_ticks {
        let (x, _) = axes.place(frame, (tick, 1.0));
        text("x-tick", "middle", (x, bottom + 18.0), &format!("{tick}"));
    }
    for &tick in &axes.y_ticks {
        let (_, y) = axes.place(frame, (1.0, tick));
        let _ = writeln!(to, r#"<path class="grid" d="M{left:.1} {y:.1}H{right:.1}"/>"#);
    }
    let (_, one) = axes.place(frame, (1.0, 1.0));
    let _ = writeln!(to, r#"<path class="one" d="M{left:.1} {one:.1}H{right:.1}"/>"#);
    let _ = writeln!(
        to,
        r#"<rect class="frame" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{PANEL_HEIGHT}"/>"#
    );
    // The first on top.
    for line in panel.lines.iter().rev() {
        let points: Vec<(f64, f64)> = line.drawable().map(|point| axes.place(frame, point)).collect();
        let corners: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let marks: Vec<String> = points.iter().map(|&(x, y)| shape(line.mark, x, y)).collect();
        let _ = writeln!(
            to,
            r#"<g class="c{}"><polyline points="{}"/><path class="marks" d="{}"/></g>"#,
            line.colour,
            corners.join(" "),
            marks.concat()
        );
    }
}

/// The path of a mark around a point.
fn shape(mark: usize, x: f64, y: f64) -> String {
    match mark {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
        1 => format!("M{:.1} {:.1}h7.4v7.4h-7.4z", x - 3.7, y - 3.7),
        2 => format!("M{x:.1} {:.1}l5 8.6h-10z", y - 5.2),
        3 => format!("M{x:.1} {:.1}l5.4 5.4l-5.4 5.4l-5.4 -5.4z", y - 5.4),
        _ => format!("M{:.1} {:.1}h3v-3h3.2v3h3v3.2h-3v3h-3.2v-3h-3z", x - 4.6, y - 1.6),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // XML has no others, not even escaped.
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;

//! Line charts as self-contained SVG files.

/// A chart: panels side by side under a title.
///
/// ```
/// use backrule_examples::chart::{Chart, Panel};
///
/// let loss = Panel::new("Loss", "epoch")
///     .line("train", [(1.0, 2.3), (2.0, 0.4)])
///     .line("test", [(2.0, 0.5)]);
/// let accuracy = Panel::percent("Accuracy", "epoch");
/// let accuracy = accuracy.line("test", [(1.0, 0.81), (2.0, 0.97)]);
/// let svg = Chart::new("Digits").panel(loss).panel(accuracy).to_svg();
/// assert!(svg.starts_with("<svg "));
/// ```
#[derive(Debug, Clone)]
pub struct Chart {
    title: String,
    subtitle: String,
    panels: Vec<Panel>,
}

/// One pair of axes with lines.
#[derive(Debug, Clone)]
pub struct Panel {
    title: String,
    x_label: String,
    percent: bool,
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    name: String,
    /// `None` is a gap: a point that cannot be drawn.
    points: Vec<Option<(f64, f64)>>,
}

const HEIGHT: f64 = 400.0;
/// The plots' upper and lower ends.
const TOP: f64 = 112.0;
const BOTTOM: f64 = HEIGHT - 56.0;
const MARGIN: f64 = 24.0;
/// From a line's end to its label, which leaves room for the connection of the two.
const LEADER: f64 = 16.0;
/// From one label to the next below.
const LABEL: f64 = 17.0;
/// A label's character: its width on average, rather too wide than too narrow.
const CHARACTER: f64 = 7.0;

// The colors follow Okabe and Ito's palette, which color-blind readers can tell apart too. There
// are no variables because not every renderer knows them.
const COLOURS: usize = 6;
const STYLE: &str = r#"<style>
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #57606a }
.title { font-size: 19px }
.head { font-size: 14px }
.title, .head, .label { font-weight: 600; fill: #1f2328 }
.x { text-anchor: middle }
.y { text-anchor: end }
path { fill: none; stroke: currentColor; stroke-linecap: round; stroke-linejoin: round }
.back { fill: #ffffff }
.grid { color: #e4e7eb }
.axis { color: #8c959f }
.line { stroke-width: 2.25 }
.leader { stroke-opacity: 0.6 }
.dot { stroke-width: 7 }
.c0 { color: #0072b2 } .c1 { color: #d55e00 } .c2 { color: #009e73 }
.c3 { color: #cc79a7 } .c4 { color: #b58900 } .c5 { color: #6f6f6f }
@media (prefers-color-scheme: dark) {
text { fill: #9da7b3 }
.title, .head, .label { fill: #e6edf3 }
.back { fill: #0d1117 }
.grid { color: #262c34 }
.axis { color: #59626d }
.c0 { color: #56b4e9 } .c1 { color: #f5893d } .c2 { color: #2bc79a }
.c3 { color: #e3a0c6 } .c4 { color: #f0e442 } .c5 { color: #b5b5b5 }
}
</style>"#;

impl Chart {
    /// A chart without panels.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        let (title, subtitle, panels) = (title.into(), String::new(), Vec::new());
        Self { title, subtitle, panels }
    }

    /// A second, smaller line below the title.
    #[must_use]
    pub fn subtitle(mut self, subtitle: impl Into<String>) -> Self {
        self.subtitle = subtitle.into();
        self
    }

    /// Adds a panel to the right.
    #[must_use]
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// The SVG file. It needs no script and no font of its own, follows the reader's light or dark
    /// setting, and tells a screen reader what it shows.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let each = if self.panels.len() > 1 { 460.0 } else { 640.0 };
        let width = MARGIN + each * self.panels.len().max(1) as f64;
        let told: Vec<_> = self.panels.iter().map(Panel::describe).collect();
        let (title, told) = (escape(&self.title), escape(&told.join(" ")));
        let mut svg = Svg(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}"
 viewBox="0 0 {width} {HEIGHT}" role="img">
<title>{title}</title>
<desc>{told}</desc>
{STYLE}
<rect class="back" width="100%" height="100%" rx="8"/>
"#
        ));
        svg.text("title", MARGIN, 38.0, &self.title);
        svg.text("subtitle", MARGIN, 58.0, &self.subtitle);
        let mut names: Vec<&str> = Vec::new();
        for line in self.panels.iter().flat_map(|panel| &panel.lines) {
            if !names.contains(&line.name.as_str()) {
                names.push(&line.name);
            }
        }
        for (index, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, MARGIN + each * index as f64, each, &names);
        }
        svg.0 + "</svg>\n"
    }
}

impl Panel {
    /// A panel without lines.
    #[must_use]
    pub fn new(title: impl Into<String>, x_label: impl Into<String>) -> Self {
        let (title, x_label, lines) = (title.into(), x_label.into(), Vec::new());
        Self { title, x_label, percent: false, lines }
    }

    /// A panel without lines that shows its values in per cent, 1 as 100 %.
    #[must_use]
    pub fn percent(title: impl Into<String>, x_label: impl Into<String>) -> Self {
        let percent = true;
        Self { percent, ..Self::new(title, x_label) }
    }

    /// Adds a line through these points, pairs of x and y. A point that cannot be drawn, NaN for
    /// example, leaves a gap.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        // Far beyond any loss, and far enough from the limits of f64 to compute axes.
        let drawable = |value: f64| (value.abs() < 1e100).then_some(value);
        let scale = if self.percent { 100.0 } else { 1.0 };
        let point = |(x, y)| drawable(x).zip(drawable(y * scale));
        let (name, points) = (name.into(), points.into_iter().map(point).collect());
        self.lines.push(Line { name, points });
        self
    }

    /// The last point of each line that has one, with the line's name and its label.
    fn ends(&self) -> Vec<(&str, (f64, f64), String)> {
        let mut ends = Vec::new();
        for line in &self.lines {
            if let Some(&end) = line.points.iter().flatten().next_back() {
                // Three significant digits.
                let decimals = (2.0 - end.1.abs().log10().floor()).clamp(0.0, 6.0) as usize;
                let label = format!("{} {}", line.name, self.number(end.1, decimals));
                ends.push((line.name.as_str(), end, label));
            }
        }
        ends
    }

    fn number(&self, value: f64, decimals: usize) -> String {
        let unit = if self.percent { " %" } else { "" };
        number(value, decimals) + unit
    }

    /// For a reader who cannot see it.
    fn describe(&self) -> String {
        let ends: Vec<_> = self.ends().into_iter().map(|(.., label)| label).collect();
        let (title, ends) = (&self.title, ends.join(", "));
        format!("{title} by {}, at the end: {ends}.", self.x_label)
    }

    /// The same name has the same color in every panel: that of its place among the chart's `names`.
    fn draw(&self, svg: &mut Svg, start: f64, width: f64, names: &[&str]) {
        svg.text("head", start, TOP - 20.0, &self.title);
        let lines = self.lines.iter();
        let points = || lines.clone().flat_map(|line| line.points.iter().flatten());
        let across = Axis::new(points().map(|point| point.0), false);
        let up = Axis::new(points().map(|point| point.1), true);
        let (Some(across), Some(up)) = (across, up) else {
            return svg.text("x", start + width / 2.0, (TOP + BOTTOM) / 2.0, "no data");
        };

        let ends = self.ends();
        let tick_label = |tick: &f64| self.number(*tick, up.decimals());
        let left = start + widest(up.ticks().map(|tick| tick_label(&tick))) + 8.0;
        let room = LEADER + widest(ends.iter().map(|(.., label)| label)) + MARGIN;
        // A long label must not squeeze the plot to nothing; it is cut off at the edge instead.
        let right = (start + width - room).max(left + 120.0);
        let place = |(x, y): (f64, f64)| {
            let x = left + (right - left) * across.share(x);
            (x, BOTTOM - (BOTTOM - TOP) * up.share(y))
        };

        for tick in up.ticks() {
            let (_, y) = place((across.low, tick));
            svg.path("grid", &format!("M{left:.1} {y:.1}H{right:.1}"));
            svg.text("y", left - 8.0, y + 4.0, &tick_label(&tick));
        }
        svg.path("axis", &format!("M{left:.1} {BOTTOM}H{right:.1}"));
        for tick in across.ticks() {
            let (x, _) = place((tick, up.low));
            svg.path("axis", &format!("M{x:.1} {BOTTOM}v5"));
            svg.text("x", x, BOTTOM + 20.0, &number(tick, across.decimals()));
        }
        svg.text("x", (left + right) / 2.0, BOTTOM + 40.0, &self.x_label);

        let color = |name: &str| names.iter().position(|other| *other == name).unwrap_or(0) % COLOURS;
        for line in &self.lines {
            let (mut path, mut pen_down) = (String::new(), false);
            for point in &line.points {
                if let Some((x, y)) = point.map(place) {
                    // `h0` makes a dot of a point between two gaps.
                    let (command, dot) = if pen_down { ('L', "") } else { ('M', "h0") };
                    path += &format!("{command}{x:.1} {y:.1}{dot}");
                }
                pen_down = point.is_some();
            }
            svg.path(&format!("line c{}", color(&line.name)), &path);
        }

        let mut heights: Vec<_> = ends.iter().map(|(_, end, _)| place(*end).1).collect();
        spread(&mut heights);
        for ((name, end, label), height) in ends.iter().zip(heights) {
            let (color, (x, y), label_x) = (color(name), place(*end), right + LEADER);
            let leader = format!("M{x:.1} {y:.1}L{:.1} {height:.1}", label_x - 4.0);
            svg.path(&format!("leader c{color}"), &leader);
            svg.path(&format!("dot c{color}"), &format!("M{x:.1} {y:.1}h0"));
            svg.text("label", label_x, height + 4.0, label);
        }
    }
}

/// A file in the making.
struct Svg(String);

impl Svg {
    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = escape(text);
        self.0 += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n");
    }

    fn path(&mut self, class: &str, path: &str) {
        self.0 += &format!("<path class=\"{class}\" d=\"{path}\"/>\n");
    }
}

/// From where to where an axis goes, and how far apart its ticks are.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis for these values. It ends where they do, or else at round numbers around them.
    fn new(values: impl Iterator<Item = f64> + Clone, round: bool) -> Option<Self> {
        let mut low = values.clone().min_by(f64::total_cmp)?;
        let mut high = values.clone().max_by(f64::total_cmp)?;
        let size = low.abs().max(high.abs());
        if size < 1e-100 {
            (low, high) = (0.0, 1.0);
        } else if high - low < size * 1e-9 || (round && low > 0.0 && low < high / 5.0) {
            // As good as constant, or not far from zero: zero shows how large the values are.
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let mut step = nice_step((high - low) / 5.0);
        if values.into_iter().all(|value| value.fract() == 0.0) {
            step = step.max(1.0); // There is no epoch 1.5.
        }
        if round {
            // The tiny number keeps a value that is on a tick from going to the next.
            low = (low / step + 1e-9).floor() * step;
            high = (high / step - 1e-9).ceil() * step;
        }
        Some(Self { low, high, step })
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let last = (self.high / self.step + 1e-9).floor();
        // Adding zero turns -0 into 0.
        (0..=(last - first) as u32).map(move |index| (first + f64::from(index)) * self.step + 0.0)
    }

    fn decimals(self) -> usize {
        (-(self.step.log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize
    }

    /// Where a value is between the ends, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// The least of …, 0.1, 0.2, 0.5, 1, 2, 5, 10, … that is not below `step`.
pub(crate) fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let enough = |factor: &f64| factor * power >= step * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].into_iter().find(enough).unwrap_or(10.0) * power
}

fn number(value: f64, decimals: usize) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e-4..1e6 => format!("{value:.decimals$}"),
        _ => format!("{value:.1e}"),
    }
}

fn widest(texts: impl Iterator<Item = impl AsRef<str>>) -> f64 {
    let characters = texts.map(|text| text.as_ref().chars().count()).max();
    characters.unwrap_or(0) as f64 * CHARACTER
}

/// Moves labels apart, downwards if there is room and else upwards, and keeps their order.
fn spread(heights: &mut [f64]) {
    let mut order: Vec<_> = heights.iter_mut().collect();
    order.sort_by(|a, b| a.total_cmp(b));
    let mut least = f64::NEG_INFINITY;
    for height in &mut order {
        **height = height.max(least);
        least = **height + LABEL;
    }
    let mut most = BOTTOM;
    for height in order.iter_mut().rev() {
        **height = height.min(most);
        most = **height - LABEL;
    }
}

/// Text as XML wants it. Some characters have no place there, not even escaped.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(values: &[f64]) -> String {
        let points = (1..).map(f64::from).zip(values.iter().copied());
        let panel = Panel::new("p", "x").line("l", points);
        Chart::new("t").panel(panel).to_svg()
    }

    /// The `d` of the first line.
    fn path(svg: &str) -> &str {
        let (_, rest) = svg.split_once(r#"class="line c0" d=""#).unwrap();
        rest.split_once('"').unwrap().0
    }

    #[test]
    fn ticks_are_round() {
        let axis = |values: [f64; 2], round| {
            let ticks = Axis::new(values.into_iter(), round).unwrap().ticks();
            let ticks: Vec<_> = ticks.map(|tick| number(tick, 2)).collect();
            ticks.join(" ")
        };
        assert_eq!(axis([0.02, 2.3], true), "0 0.50 1.00 1.50 2.00 2.50");
        assert_eq!(axis([0.1, 0.3], true), "0.10 0.15 0.20 0.25 0.30");
        assert_eq!(axis([-3.0, 0.5], true), "-3.00 -2.00 -1.00 0 1.00");
        assert_eq!(axis([3.0, 3.0], true), "0 1.00 2.00 3.00");
        assert_eq!(axis([1.0, 50.0], false), "10.00 20.00 30.00 40.00 50.00");
        assert_eq!(axis([1.0, 3.0], false), "1.00 2.00 3.00", "and no 1.5");
        let steps = [0.9, 1.0, 1.1, 2.1, 5.1, 0.03].map(nice_step);
        assert_eq!(steps, [1.0, 1.0, 2.0, 5.0, 10.0, 0.05]);
    }

    #[test]
    fn the_line_goes_where_the_points_are_and_leaves_gaps() {
        let whole = svg(&[0.0, 1.0, 0.5]);
        let heights = path(&whole).split([' ', 'L']).skip(1).step_by(2);
        assert_eq!(heights.collect::<Vec<_>>(), ["344.0h0", "112.0", "228.0"]);

        let gaps = svg(&[3.0, 2.0, f64::NAN, 1.0, f64::INFINITY, 1.5, 1.0]);
        assert_eq!(path(&gaps).replace(|c| !"MLh".contains(c), ""), "MhLMhMhL");
        assert!(!gaps.contains("NaN") && !gaps.contains("inf"), "{gaps}");
    }

    #[test]
    fn any_series_has_its_chart() {
        for empty in [&[][..], &[f64::NAN; 2]] {
            assert!(svg(empty).contains(">no data<"));
        }
        let tiny = f64::from_bits(1);
        let (far, huge) = ([1e16, 1e16 + 2.0], [-9e99, 9e99]);
        for values in [&[0.5][..], &[7.0; 9], &[0.0; 2], &far, &huge, &[0.0, tiny]] {
            let svg = svg(values);
            assert!(path(&svg).starts_with('M'), "{values:?}: {svg}");
            assert!(!svg.contains("NaN"), "{values:?}: {svg}");
            let ticks = svg.matches(r#"class="grid""#).count();
            assert!((2..10).contains(&ticks), "{values:?}: {svg}");
        }
        assert!(Chart::new("t").to_svg().ends_with("</svg>\n"));
    }

    #[test]
    fn a_name_has_one_color_in_all_panels() {
        let points = || [(1.0, 0.5), (2.0, 0.7)];
        let both = Panel::new("loss", "epoch").line("train", points()).line("test", points());
        let svg = Chart::new("t").panel(both).panel(Panel::new("accuracy", "epoch").line("test", points()));
        let svg = svg.to_svg();
        for class in ["line", "leader", "dot"] {
            let count = |color| svg.matches(&format!("class=\"{class} c{color}\"")).count();
            assert_eq!([count(0), count(1), count(2)], [1, 2, 0], "{class}");
        }
    }

    #[test]
    fn labels_keep_apart_in_order_and_inside() {
        let mut heights = [BOTTOM, 100.0, BOTTOM - 1.0, 104.0];
        spread(&mut heights);
        assert_eq!(heights, [BOTTOM, 100.0, BOTTOM - LABEL, 100.0 + LABEL]);
    }

    #[test]
    fn labels_say_the_last_value_and_text_cannot_break_the_markup() {
        let points = [(1.0, 0.5), (2.0, 0.97222), (3.0, f64::NAN)];
        let panel = Panel::percent("<p>", "x\"").line("</text>", points);
        let svg = Chart::new("a & b\u{1}").panel(panel).to_svg();
        for wanted in [">a &amp; b <", ">&lt;/text&gt; 97.2 %<", ">60 %<"] {
            assert!(svg.contains(wanted), "{wanted} is not in {svg}");
        }
        let told = "<desc>&lt;p&gt; by x&quot;, at the end: &lt;/text&gt; 97.2 %.</desc>";
        assert!(svg.contains(told), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}

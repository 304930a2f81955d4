//! Plots as SVG: curves over time, percentile curves, dots per group. Plotters draws; here are the
//! scales, and the way that plots of a report look.
//!
//! Everything is drawn in the light colours of `Tone`; the page's style sheet finds them by value
//! and exchanges them where it is dark.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::text::grouped;

/// Units of the drawing per pixel: plotters places in whole units.
const FINE: f64 = 4.0;
/// Plotters divides font sizes by this when it writes SVG.
const FONT_FACTOR: f64 = 1.24;
const MARGIN_LEFT: f64 = 58.0;
const MARGIN_RIGHT: f64 = 118.0;
const MARGIN_TOP: f64 = 14.0;
const MARGIN_BOTTOM: f64 = 30.0;
const FONT: f64 = 12.0;
const LABEL_DISTANCE: f64 = 16.0;
/// Plots narrower than this have vertical marks without their names.
const MARKS_NAMED_FROM: u32 = 800;

/// Log scales have 2 and 5 between the powers of ten up to so many of these.
const DECADES_FINE: f64 = 2.5;
/// What is smaller than the largest value by more is moved to the scale's end.
const DECADES_MAX: f64 = 12.0;

/// What a colour means, throughout a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Source, accepted, into the relay.
    In,
    /// Sink, delivered, out of the relay.
    Out,
    Relay,
    Queue,
    Problem,
    Ink,
    Muted,
    Grid,
}

impl Tone {
    pub const ALL: [Tone; 8] = [
        Tone::In,
        Tone::Out,
        Tone::Relay,
        Tone::Queue,
        Tone::Problem,
        Tone::Ink,
        Tone::Muted,
        Tone::Grid,
    ];

    /// Red, green, blue; on white, and on near black.
    pub fn light_and_dark(self) -> [(u8, u8, u8); 2] {
        match self {
            Tone::In => [(0x2A, 0x6F, 0xD6), (0x6A, 0xA5, 0xF5)],
            Tone::Out => [(0x13, 0x8F, 0x6B), (0x3F, 0xC0, 0x98)],
            Tone::Relay => [(0xD9, 0x6A, 0x16), (0xF2, 0x9A, 0x55)],
            Tone::Queue => [(0x78, 0x57, 0xC7), (0xAE, 0x95, 0xF0)],
            Tone::Problem => [(0xC6, 0x2F, 0x2B), (0xF2, 0x71, 0x69)],
            Tone::Ink => [(0x1D, 0x22, 0x2A), (0xE6, 0xE9, 0xEE)],
            Tone::Muted => [(0x66, 0x6E, 0x7A), (0x9A, 0xA3, 0xB0)],
            Tone::Grid => [(0xE4, 0xE7, 0xEB), (0x2F, 0x36, 0x40)],
        }
    }

    fn color(self) -> RGBColor {
        let [(red, green, blue), _] = self.light_and_dark();
        RGBColor(red, green, blue)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    Log,
    /// Position grows by one each time that the share of slower ones becomes a tenth.
    Percentile,
}

/// Maps values to positions, and says where its lines and labels are.
#[derive(Clone, Debug)]
pub struct Scale {
    kind: Kind,
    /// Positions, always finite and `low < high`.
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From zero to a round number at or above the largest value.
    pub fn from_zero(values: impl Iterator<Item = f64>, label: impl Fn(f64) -> String) -> Self {
        let most = largest(values);
        let step = round_step(most / 4.0, &[1.0, 2.0, 2.5, 5.0, 10.0]);
        let count = (most / step - 1e-9).ceil().max(1.0) as usize;
        Self::linear(step * count as f64, step, count, label)
    }

    /// From zero to `seconds` exactly.
    pub fn time(seconds: f64) -> Self {
        let most = largest(std::iter::once(seconds));
        let step = if most <= 30.0 {
            round_step(most / 8.0, &[1.0, 2.0, 5.0, 10.0])
        } else {
            let steps = [
                5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
            ];
            let fits = steps.into_iter().find(|step| most / step <= 9.0);
            fits.unwrap_or_else(|| 3600.0 * round_step(most / 8.0 / 3600.0, &[1.0, 2.0, 5.0, 10.0]))
        };
        Self::linear(most, step, (most / step + 1e-9) as usize, seconds_label)
    }

    fn linear(high: f64, step: f64, count: usize, label: impl Fn(f64) -> String) -> Self {
        let ticks = (0..=count.min(20)).map(|index| step * index as f64);
        Self {
            kind: Kind::Linear,
            low: 0.0,
            high,
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Powers of ten, with 2 and 5 between them if there are few. Values that are not positive
    /// count as the smallest positive one.
    pub fn log(values: impl Iterator<Item = f64>, label: impl Fn(f64) -> String) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let ends = positive.fold(None, |ends: Option<(f64, f64)>, value| {
            let (least, most) = ends.unwrap_or((value, value));
            Some((least.min(value), most.max(value)))
        });
        let (least, most) = ends.unwrap_or((1.0, 10.0));
        let high = round_log(most, f64::ceil);
        let low = round_log(least, f64::floor).max(high - DECADES_MAX);
        let high = high.max(low + 0.3);
        let (low, high) = if high - low <= DECADES_FINE {
            (low, high)
        } else {
            (low.floor(), high.ceil())
        };
        let (first, last) = (low.floor() as i32, high.ceil() as i32);
        let between: &[f64] = if high - low <= DECADES_FINE {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let ticks = (first..=last).flat_map(|decade| {
            let powers = between.iter().map(move |&digit| digit * 10f64.powi(decade));
            powers.filter(|tick| (low - 1e-9..=high + 1e-9).contains(&tick.log10()))
        });
        let ticks = ticks.map(|tick| (tick.log10(), label(tick))).collect();
        Self {
            kind: Kind::Log,
            low,
            high,
            ticks,
        }
    }

    /// Shares of `count` times, as HdrHistogram's plots have them: 0 %, 90 %, 99 %, 99.9 %...
    pub fn percentiles(count: u64) -> Self {
        let high = (count.max(10) as f64).log10().min(9.0);
        let ticks = (0..=high as usize).map(|nines| {
            let label = match nines {
                0 => "0 %".to_string(),
                1 => "90 %".to_string(),
                2 => "99 %".to_string(),
                more => format!("99.{} %", "9".repeat(more - 2)),
            };
            (nines as f64, label)
        });
        Self {
            kind: Kind::Percentile,
            low: 0.0,
            high,
            ticks: ticks.collect(),
        }
    }

    /// Places 0, 1, 2... for `count` rows, without lines or labels.
    pub fn rows(count: usize) -> Self {
        Self {
            kind: Kind::Linear,
            low: -0.6,
            high: count.max(1) as f64 - 0.4,
            ticks: Vec::new(),
        }
    }

    /// `None` for what has no place on the scale. What lies outside is moved to its end.
    fn place(&self, value: f64) -> Option<f64> {
        if value.is_nan() {
            return None;
        }
        let place = match self.kind {
            Kind::Linear => value,
            Kind::Log if value > 0.0 => value.log10(),
            Kind::Log => self.low,
            Kind::Percentile if value < 1.0 => -(1.0 - value).log10(),
            Kind::Percentile => self.high,
        };
        Some(place.clamp(self.low, self.high))
    }
}

/// The largest finite value; 1 if there is none above zero.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    // What is smaller than that is rounding, and would make ticks without end.
    if most > 1e-9 { most } else { 1.0 }
}

/// The smallest of `digits` times a power of ten that is at least `wanted`.
fn round_step(wanted: f64, digits: &[f64]) -> f64 {
    let power = 10f64.powf(wanted.log10().floor());
    let fits = digits
        .iter()
        .find(|&&digit| digit * power >= wanted - 1e-12);
    fits.copied().unwrap_or(10.0) * power
}

/// log10 of the 1, 2 or 5 times a power of ten next to `value`, below or above.
fn round_log(value: f64, round: fn(f64) -> f64) -> f64 {
    let decade = value.log10().floor();
    let digit = value / 10f64.powf(decade);
    let steps = [1.0, 2.0, 5.0, 10.0];
    let rounded = if round(0.5) == 0.0 {
        steps.into_iter().rev().find(|step| *step <= digit + 1e-9)
    } else {
        steps.into_iter().find(|step| *step >= digit - 1e-9)
    };
    decade + rounded.unwrap_or(1.0).log10()
}

/// 0, 0.5 s, 20 s, 2 min, 1:30 min, 2 h.
fn seconds_label(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds == 0.0 => "0".to_string(),
        0..60 => format!("{} s", trimmed(seconds, 3)),
        60..3600 if whole.is_multiple_of(60) => format!("{} min", whole / 60),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ if whole.is_multiple_of(3600) => format!("{} h", whole / 3600),
        _ => format!("{}:{:02} h", whole / 3600, whole / 60 % 60),
    }
}

/// 0, 0.25, 12, 1,500, 20,000, 3M: as in tables and tiles, but for what has too little room.
pub fn short_number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{}G", trimmed(value / 1e9, 2)),
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6, 2)),
        _ if value >= 1000.0 => grouped(value.round() as u64),
        _ => trimmed(value, 3),
    }
}

/// Microseconds as 50 µs, 2 ms, 1.5 s.
pub fn us_label(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", trimmed(us / 1e6, 2)),
        us if us >= 1e3 => format!("{} ms", trimmed(us / 1e3, 2)),
        us => format!("{} µs", trimmed(us, 1)),
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Line,
    /// A line over a light fill.
    Area,
    /// A thinner, dashed line.
    Dashed,
    Dots,
    /// A short thick line.
    Median,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub tone: Tone,
    pub shape: Shape,
    /// A y that is not a number breaks the line.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn line(name: &str, tone: Tone, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_string(),
            tone,
            shape: Shape::Line,
            points,
        }
    }

    pub fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }
}

/// A vertical line at a value of the x axis, or a horizontal one at a value of the y axis.
#[derive(Clone, Debug)]
pub struct Mark {
    pub at: f64,
    pub label: String,
    pub tone: Tone,
}

/// One plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Pixels, also for the proportions.
    pub width: u32,
    pub height: u32,
    pub x: Scale,
    pub y: Scale,
    pub series: Vec<Series>,
    pub marks_x: Vec<Mark>,
    pub marks_y: Vec<Mark>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Inner<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn fine(pixels: f64) -> i32 {
    (pixels * FINE).round() as i32
}

fn text_style(tone: Tone, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    TextStyle {
        font: ("sans-serif", FONT * FINE * FONT_FACTOR).into_font(),
        color: tone.color().to_backend_color(),
        pos: Pos::new(horizontal, vertical),
    }
}

impl Plot {
    /// `None` when there is nothing to be seen: no series with two points (one, for dots).
    pub fn svg(&self) -> Option<String> {
        let enough = |series: &Series| {
            let need = if series.shape == Shape::Dots { 1 } else { 2 };
            series.points.iter().filter(|(_, y)| !y.is_nan()).count() >= need
        };
        if !self.series.iter().any(enough) {
            return None;
        }
        let mut svg = String::new();
        let size = (
            fine(self.width.into()) as u32,
            fine(self.height.into()) as u32,
        );
        self.draw(&SVGBackend::with_string(&mut svg, size).into_drawing_area())
            .ok()?;
        Some(svg)
    }

    fn draw(&self, root: &Area<'_>) -> Drawn {
        let mut chart = ChartBuilder::on(root)
            .margin_left(fine(MARGIN_LEFT))
            .margin_right(fine(MARGIN_RIGHT))
            .margin_top(fine(MARGIN_TOP))
            .margin_bottom(fine(MARGIN_BOTTOM))
            .build_cartesian_2d(self.x.low..self.x.high, self.y.low..self.y.high)?;
        self.draw_y_axis(root, &chart)?;
        self.draw_x_axis(root, &chart)?;
        self.draw_marks(root, &chart)?;
        for series in &self.series {
            self.draw_series(&mut chart, series)?;
        }
        self.draw_names(root, &chart)?;
        root.present()
    }

    fn draw_y_axis(&self, root: &Area<'_>, chart: &Inner<'_>) -> Drawn {
        let line = |at: f64, tone: Tone| {
            let left = chart.backend_coord(&(self.x.low, at));
            let right = chart.backend_coord(&(self.x.high, at));
            let stroke = tone.color().stroke_width(fine(1.0) as u32);
            PathElement::new(vec![left, right], stroke)
        };
        for (at, label) in &self.y.ticks {
            root.draw(&line(*at, Tone::Grid))?;
            let style = text_style(Tone::Muted, HPos::Right, VPos::Center);
            let left = chart.backend_coord(&(self.x.low, *at));
            let place = (left.0 - fine(8.0), left.1);
            root.draw(&Text::new(label.clone(), place, style))?;
        }
        root.draw(&line(self.y.low, Tone::Muted))
    }

    fn draw_x_axis(&self, root: &Area<'_>, chart: &Inner<'_>) -> Drawn {
        for (at, label) in &self.x.ticks {
            let foot = chart.backend_coord(&(*at, self.y.low));
            let tick = vec![foot, (foot.0, foot.1 + fine(4.0))];
            let line = Tone::Muted.color().stroke_width(fine(1.0) as u32);
            root.draw(&PathElement::new(tick, line))?;
            let style = text_style(Tone::Muted, HPos::Center, VPos::Top);
            let place = (foot.0, foot.1 + fine(8.0));
            root.draw(&Text::new(label.clone(), place, style))?;
        }
        Ok(())
    }

    fn draw_marks(&self, root: &Area<'_>, chart: &Inner<'_>) -> Drawn {
        let stroke = |mark: &Mark| mark.tone.color().mix(0.55).stroke_width(fine(1.0) as u32);
        // Labels that would run into the one before are left out.
        let mut free_from = i32::MIN;
        for mark in &self.marks_x {
            let Some(at) = self.x.place(mark.at) else {
                continue;
            };
            let top = chart.backend_coord(&(at, self.y.high));
            let foot = chart.backend_coord(&(at, self.y.low));
            root.draw(&PathElement::new(vec![top, foot], stroke(mark)))?;
            if self.width >= MARKS_NAMED_FROM && top.0 >= free_from {
                let style = text_style(mark.tone, HPos::Center, VPos::Bottom);
                let place = (top.0, top.1 - fine(1.0));
                root.draw(&Text::new(mark.label.clone(), place, style))?;
                free_from = top.0 + fine(8.0 + 7.0 * mark.label.chars().count() as f64);
            }
        }
        for mark in &self.marks_y {
            let Some(at) = self.y.place(mark.at) else {
                continue;
            };
            let left = chart.backend_coord(&(self.x.low, at));
            let right = chart.backend_coord(&(self.x.high, at));
            root.draw(&PathElement::new(vec![left, right], stroke(mark)))?;
            let style = text_style(mark.tone, HPos::Left, VPos::Bottom);
            let place = (left.0 + fine(6.0), left.1 - fine(3.0));
            root.draw(&Text::new(mark.label.clone(), place, style))?;
        }
        Ok(())
    }

    fn draw_series(&self, chart: &mut Inner<'_>, series: &Series) -> Drawn {
        let color = series.tone.color();
        for points in self.stretches(series) {
            match series.shape {
                Shape::Line | Shape::Area | Shape::Dashed if points.len() == 1 => {
                    let dot = Circle::new(points[0], fine(1.5), color.filled());
                    chart.draw_series([dot])?;
                }
                Shape::Line => {
                    let line = color.stroke_width(fine(1.75) as u32);
                    chart.draw_series(LineSeries::new(points, line))?;
                }
                Shape::Area => {
                    let line = color.stroke_width(fine(1.75) as u32);
                    let area = AreaSeries::new(points, self.y.low, color.mix(0.16));
                    chart.draw_series(area.border_style(line))?;
                }
                Shape::Dashed => {
                    let (dash, gap) = (fine(4.0) as u32, fine(4.0) as u32);
                    let thin = color.stroke_width(fine(1.25) as u32);
                    chart.draw_series(DashedLineSeries::new(points, dash, gap, thin))?;
                }
                Shape::Median => {
                    let line = color.stroke_width(fine(2.5) as u32);
                    chart.draw_series(LineSeries::new(points, line))?;
                }
                Shape::Dots => {
                    let dots = points.into_iter();
                    let dot = |at| Circle::new(at, fine(4.5), color.mix(0.75).filled());
                    chart.draw_series(dots.map(dot))?;
                }
            }
        }
        Ok(())
    }

    /// The points' positions, apart where a line is broken.
    fn stretches(&self, series: &Series) -> Vec<Vec<(f64, f64)>> {
        let mut stretches = vec![Vec::new()];
        for &(x, y) in &series.points {
            match (self.x.place(x).zip(self.y.place(y)), stretches.last_mut()) {
                (Some(place), Some(last)) => last.push(place),
                _ => stretches.push(Vec::new()),
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    /// Names at the right, beside the ends of the curves, moved apart where they would touch.
    fn draw_names(&self, root: &Area<'_>, chart: &Inner<'_>) -> Drawn {
        let mut names: Vec<(i32, &Series)> = self
            .series
            .iter()
            .filter(|series| !series.name.is_empty())
            .filter_map(|series| {
                let stretches = self.stretches(series);
                let last = stretches.last()?;
                let end = chart.backend_coord(last.last()?).1;
                let begin = chart.backend_coord(last.first()?).1;
                let middle = series.shape == Shape::Median;
                Some((if middle { (begin + end) / 2 } else { end }, series))
            })
            .collect();
        names.sort_by_key(|(height, _)| *height);
        let floor = chart.backend_coord(&(self.x.high, self.y.low)).1;
        let heights: Vec<i32> = names.iter().map(|(height, _)| *height).collect();
        let heights = moved_apart(&heights, fine(LABEL_DISTANCE), floor);
        let right = chart.backend_coord(&(self.x.high, self.y.low)).0;
        for ((_, series), height) in names.iter().zip(heights) {
            let stroke = series.tone.color().stroke_width(fine(2.5) as u32);
            let from = (right + fine(8.0), height);
            let mut place = (from.0, height);
            if series.shape != Shape::Median {
                let key = vec![from, (from.0 + fine(12.0), height)];
                root.draw(&PathElement::new(key, stroke))?;
                place.0 += fine(18.0);
            }
            let style = text_style(Tone::Ink, HPos::Left, VPos::Center);
            root.draw(&Text::new(series.name.clone(), place, style))?;
        }
        Ok(())
    }
}

/// Sorted heights, at least `distance` apart, none below `floor` (heights grow downwards).
fn moved_apart(heights: &[i32], distance: i32, floor: i32) -> Vec<i32> {
    let mut placed = heights.to_vec();
    for index in 1..placed.len() {
        placed[index] = placed[index].max(placed[index - 1] + distance);
    }
    let mut limit = floor;
    for height in placed.iter_mut().rev() {
        *height = (*height).min(limit);
        limit = *height - distance;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: [f64; 7] = [
        0.0,
        -5.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        1e300,
    ];

    fn check(scale: &Scale) {
        assert!(scale.low.is_finite() && scale.high.is_finite(), "{scale:?}");
        assert!(scale.low < scale.high, "{scale:?}");
        assert!((1..=25).contains(&scale.ticks.len()), "{scale:?}");
        let inside = scale.low - 1e-6..=scale.high * (1.0 + 1e-9) + 1e-6;
        for (tick, label) in &scale.ticks {
            assert!(inside.contains(tick) && !label.is_empty(), "{scale:?}");
        }
        for value in ODD {
            if let Some(place) = scale.place(value) {
                assert!(
                    scale.low <= place && place <= scale.high,
                    "{value} {scale:?}"
                );
            }
        }
        assert_eq!(scale.place(f64::NAN), None);
    }

    #[test]
    fn scales_stand_degenerate_data() {
        check(&Scale::from_zero(std::iter::empty(), short_number));
        check(&Scale::log(std::iter::empty(), us_label));
        for value in ODD.into_iter().chain([1.0, 10.0, 999.0, 1e-12]) {
            check(&Scale::from_zero([value, value].into_iter(), short_number));
            check(&Scale::log([value].into_iter(), us_label));
            check(&Scale::log([value, 20.0].into_iter(), us_label));
            check(&Scale::time(value));
        }
        for count in [0, 1, 9, 10, 11, 12_345, u64::MAX] {
            check(&Scale::percentiles(count));
        }
        for seconds in [0.01, 0.3, 1.0, 29.9, 31.0, 61.0, 3_599.0, 86_400.0, 1e7] {
            check(&Scale::time(seconds));
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let labels = |scale: Scale| -> Vec<String> {
            scale.ticks.into_iter().map(|(_, label)| label).collect()
        };
        let scale = Scale::from_zero([9_400.0].into_iter(), short_number);
        assert_eq!(labels(scale), ["0", "2,500", "5,000", "7,500", "10,000"]);
        let scale = Scale::log([300.0, 40_000.0].into_iter(), us_label);
        let wanted = [
            "200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms",
        ];
        assert_eq!(labels(scale), wanted);
        let wanted = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"];
        assert_eq!(labels(Scale::percentiles(10_000)), wanted);
        assert_eq!(labels(Scale::time(100.0))[..3], ["0", "15 s", "30 s"]);
        assert_eq!(labels(Scale::time(100.0)).last().unwrap(), "1:30 min");
    }

    #[test]
    fn a_plot_without_data_is_no_plot() {
        let plot = |points: Vec<(f64, f64)>, shape| Plot {
            width: 500,
            height: 200,
            x: Scale::time(1.0),
            y: Scale::from_zero(std::iter::empty(), short_number),
            series: vec![Series::line("a <b>", Tone::In, points).shaped(shape)],
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        };
        assert_eq!(plot(vec![], Shape::Line).svg(), None);
        assert_eq!(plot(vec![(0.0, 1.0)], Shape::Area).svg(), None);
        assert!(plot(vec![(0.0, 1.0)], Shape::Dots).svg().is_some());
        let svg = plot(
            vec![(0.0, f64::NAN), (0.5, f64::INFINITY), (1.0, 3.0)],
            Shape::Line,
        )
        .svg();
        let svg = svg.unwrap();
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn what_is_no_number_breaks_a_line() {
        let points = vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 9.0)];
        let plot = Plot {
            width: 500,
            height: 200,
            x: Scale::time(3.0),
            y: Scale::log([1.0, 9.0].into_iter(), us_label),
            series: vec![Series::line("", Tone::In, points)],
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        };
        let stretches = plot.stretches(&plot.series[0]);
        let lengths: Vec<usize> = stretches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1]);
    }

    #[test]
    fn names_do_not_touch() {
        assert_eq!(moved_apart(&[10, 11, 12], 16, 100), [10, 26, 42]);
        assert_eq!(moved_apart(&[98, 99, 100], 16, 100), [68, 84, 100]);
        assert_eq!(moved_apart(&[], 16, 100), Vec::<i32>::new());
    }
}

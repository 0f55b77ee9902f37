//! Panels of curves above each other, as a PNG.

mod png;

use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform,
};

/// Pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    width: u32,
    height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x');
        let side = |text: &str| text.parse().ok().filter(|side| (200..=8000).contains(side));
        let size = sides.and_then(|(width, height)| {
            let (width, height) = (side(width)?, side(height)?);
            Some(Self { width, height })
        });
        size.ok_or_else(|| "a size is WIDTHxHEIGHT, each from 200 to 8000".to_owned())
    }
}

/// Colours of names; further names have darker ones.
const COLORS: [[u8; 3]; 10] = [
    [31, 119, 180],
    [255, 127, 14],
    [44, 160, 44],
    [214, 39, 40],
    [148, 103, 189],
    [140, 86, 75],
    [227, 119, 194],
    [127, 127, 127],
    [188, 189, 34],
    [23, 190, 207],
];
const BLACK: [u8; 3] = [30, 30, 30];
const GREY: [u8; 3] = [222, 222, 222];

/// Height of a line of text.
const TEXT: f32 = 16.0;
/// What a panel has on its left for numbers, and space everywhere.
const LEFT: f32 = 72.0;
const SPACE: f32 = 12.0;

/// A picture.
pub struct Chart<'a> {
    /// What the curves are of.
    pub names: &'a [String],
    /// From above.
    pub panels: Vec<Panel>,
    /// What all panels run over.
    pub x_label: &'a str,
}

/// The curves of a metric.
pub struct Panel {
    pub title: String,
    pub curves: Vec<Curve>,
}

/// Places and values under one name.
pub struct Curve {
    /// Number of the name, which decides the colour.
    pub name: usize,
    /// Whether each value is seen by itself.
    pub has_dots: bool,
    pub points: Vec<(f64, f64)>,
}

/// From and to.
type Range = (f64, f64);

impl Chart<'_> {
    /// Writes the picture.
    pub fn write(&self, path: &Path, size: Size) -> anyhow::Result<()> {
        let png = png::encode(&self.draw(size)?);
        std::fs::write(path, png).with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// The picture's pixels, none of which is transparent.
    fn draw(&self, size: Size) -> anyhow::Result<Pixmap> {
        let mut canvas = Canvas::new(size)?;
        let top = self.legend(&mut canvas);
        let height = (size.height as f32 - top) / self.panels.len() as f32;
        let places = self.panels.iter().flat_map(Panel::points).map(|(x, _)| x);
        let x_range = range(std::iter::once(0.0).chain(places));
        for (number, panel) in self.panels.iter().enumerate() {
            let top = top + height * number as f32;
            let frame = Frame {
                left: LEFT,
                right: size.width as f32 - 2.0 * SPACE,
                top: top + TEXT + SPACE,
                bottom: top + height - TEXT - 1.5 * SPACE,
                x: x_range,
                y: widened(range(panel.points().map(|(_, y)| y))),
            };
            panel.draw(&frame, &mut canvas);
            let (x, y) = (frame.right, frame.top - TEXT - SPACE / 2.0);
            canvas.text(self.x_label, x - width(self.x_label), y);
        }
        Ok(canvas.pixels)
    }

    /// Writes the names in rows; returns where the last one ends.
    fn legend(&self, canvas: &mut Canvas) -> f32 {
        let (mut x, mut y) = (LEFT, SPACE);
        for (number, name) in self.names.iter().enumerate() {
            let needed = 24.0 + SPACE / 2.0 + width(name);
            if x > LEFT && x + needed > canvas.pixels.width() as f32 {
                (x, y) = (LEFT, y + TEXT + SPACE / 2.0);
            }
            let middle = y + TEXT / 2.0;
            canvas.line(&[(x, middle), (x + 24.0, middle)], 4.0, color(number));
            canvas.text(name, x + 24.0 + SPACE / 2.0, y);
            x += needed + 2.0 * SPACE;
        }
        y + TEXT + SPACE / 2.0
    }
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.curves
            .iter()
            .flat_map(|curve| curve.points.iter().copied())
    }

    fn draw(&self, frame: &Frame, canvas: &mut Canvas) {
        canvas.text(&self.title, frame.left, frame.top - TEXT - SPACE / 2.0);
        for (value, label) in ticks(frame.x, (frame.right - frame.left) / 90.0) {
            let (x, _) = frame.place((value, frame.y.0));
            canvas.line(&[(x, frame.top), (x, frame.bottom)], 1.0, GREY);
            canvas.text(&label, x - width(&label) / 2.0, frame.bottom + SPACE / 2.0);
        }
        for (value, label) in ticks(frame.y, (frame.bottom - frame.top) / 50.0) {
            let (_, y) = frame.place((frame.x.0, value));
            canvas.line(&[(frame.left, y), (frame.right, y)], 1.0, GREY);
            canvas.text(
                &label,
                frame.left - SPACE / 2.0 - width(&label),
                y - TEXT / 2.0,
            );
        }
        let (left, bottom) = (frame.left, frame.bottom);
        canvas.line(
            &[(left, frame.top), (left, bottom), (frame.right, bottom)],
            1.0,
            BLACK,
        );
        for curve in &self.curves {
            let color = color(curve.name);
            let points: Vec<_> = curve
                .points
                .iter()
                .map(|&point| frame.place(point))
                .collect();
            canvas.line(&points, if curve.has_dots { 1.0 } else { 2.0 }, color);
            if curve.has_dots || points.len() == 1 {
                points
                    .iter()
                    .for_each(|&center| canvas.dot(center, 4.0, color));
            }
        }
    }
}

/// Where a panel lies, and the values at its borders.
struct Frame {
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
    x: Range,
    y: Range,
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f32, f32) {
        let part = |value: f64, (from, to): Range| ((value - from) / (to - from)) as f32;
        (
            self.left + part(x, self.x) * (self.right - self.left),
            self.bottom - part(y, self.y) * (self.bottom - self.top),
        )
    }
}

fn color(name: usize) -> [u8; 3] {
    let shade = 0.6f32.powi((name / COLORS.len()) as i32);
    COLORS[name % COLORS.len()].map(|part| (f32::from(part) * shade) as u8)
}

/// The smallest and the largest value, apart from each other; of no value 0 and 1.
fn range(values: impl Iterator<Item = f64>) -> Range {
    let empty = (f64::INFINITY, f64::NEG_INFINITY);
    let (from, to) = values.fold(empty, |(from, to), value| (from.min(value), to.max(value)));
    match to - from {
        apart if apart > 0.0 => (from, to),
        apart if apart < 0.0 => (0.0, 1.0),
        _ => (from - 0.5, from + 0.5),
    }
}

/// A range with a twentieth of it on both sides.
fn widened((from, to): Range) -> Range {
    let space = (to - from) / 20.0;
    (from - space, to + space)
}

/// Round values of a range, about as many as asked for, with their labels.
fn ticks((from, to): Range, n: f32) -> Vec<(f64, String)> {
    let rough = (to - from) / f64::from(n.max(1.0));
    let power = 10f64.powf(rough.log10().floor());
    let rounds = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let step = rounds
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(10.0 * power);
    let largest = from.abs().max(to.abs());
    let (unit, suffix) = match largest {
        1e15.. => (1e15, "P"),
        1e12.. => (1e12, "T"),
        1e9.. => (1e9, "G"),
        1e6.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-(step / unit).log10().floor()).max(0.0) as usize;
    let numbers = (from / step).ceil() as i64..=(to / step).floor() as i64;
    let label = |value: f64| match value {
        0.0 => "0".to_owned(),
        _ => format!("{:.decimals$}{suffix}", value / unit),
    };
    numbers
        .map(|number| number as f64 * step)
        .map(|value| (value, label(value)))
        .collect()
}

/// Pixels of a text.
fn width(text: &str) -> f32 {
    (text.chars().count() * get_raster_width(FontWeight::Regular, RasterHeight::Size16)) as f32
}

struct Canvas {
    pixels: Pixmap,
}

impl Canvas {
    fn new(size: Size) -> anyhow::Result<Self> {
        let mut pixels =
            Pixmap::new(size.width, size.height).context("no memory for the picture")?;
        pixels.fill(Color::WHITE);
        Ok(Self { pixels })
    }

    fn line(&mut self, points: &[(f32, f32)], width: f32, color: [u8; 3]) {
        let mut path = PathBuilder::new();
        for (number, &(x, y)) in points.iter().enumerate() {
            match number {
                0 => path.move_to(x, y),
                _ => path.line_to(x, y),
            }
        }
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        // A single point is no path.
        if let Some(path) = path.finish() {
            let paint = paint(color, 255);
            self.pixels
                .stroke_path(&path, &paint, &stroke, Transform::identity(), None);
        }
    }

    fn dot(&mut self, (x, y): (f32, f32), radius: f32, color: [u8; 3]) {
        if let Some(path) = PathBuilder::from_circle(x, y, radius) {
            let paint = paint(color, 255);
            self.pixels.fill_path(
                &path,
                &paint,
                FillRule::Winding,
                Transform::identity(),
                None,
            );
        }
    }

    /// Writes from a point to the right and below.
    fn text(&mut self, text: &str, x: f32, y: f32) {
        let (mut x, y) = (x.round(), y.round());
        for letter in text.chars() {
            let raster = |letter| get_raster(letter, FontWeight::Regular, RasterHeight::Size16);
            let Some(letter) = raster(letter).or_else(|| raster('?')) else {
                continue;
            };
            for (below, row) in letter.rows().enumerate() {
                for (beside, &strength) in row.iter().enumerate() {
                    let place = Rect::from_xywh(x + beside as f32, y + below as f32, 1.0, 1.0);
                    if let Some(place) = place.filter(|_| strength > 0) {
                        let paint = paint(BLACK, strength);
                        self.pixels
                            .fill_rect(place, &paint, Transform::identity(), None);
                    }
                }
            }
            x += letter.width() as f32;
        }
    }
}

fn paint([red, green, blue]: [u8; 3], alpha: u8) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, alpha);
    paint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let labels = |range, n| -> Vec<String> {
            ticks(range, n)
                .into_iter()
                .map(|(_, label)| label)
                .collect()
        };
        assert_eq!(
            labels((0.0, 1000.0), 5.0),
            ["0", "200", "400", "600", "800", "1000"]
        );
        assert_eq!(
            labels((0.0, 2.4e6), 5.0),
            ["0", "0.5M", "1.0M", "1.5M", "2.0M"]
        );
        assert_eq!(labels((9.93, 10.07), 4.0), ["9.95", "10.00", "10.05"]);
        assert_eq!(
            labels((0.0, 40_000.0), 4.0),
            ["0", "10k", "20k", "30k", "40k"]
        );
        // A panel may have no value, and one value alone.
        assert_eq!(labels(range([].into_iter()), 2.0), ["0", "0.5", "1.0"]);
        assert_eq!(labels(range([7.0].into_iter()), 2.0), ["6.5", "7.0", "7.5"]);
    }

    #[test]
    fn lines_run_through_their_values() -> anyhow::Result<()> {
        let curve = |name, points: &[(f64, f64)], has_dots| Curve {
            name,
            has_dots,
            points: points.to_vec(),
        };
        let chart = Chart {
            names: &["falling".to_owned(), "rising".to_owned()],
            panels: vec![Panel {
                title: "loss".to_owned(),
                curves: vec![
                    curve(0, &[(0.0, 10.0), (100.0, 0.0)], false),
                    curve(1, &[(0.0, 0.0), (50.0, 2.0), (100.0, 10.0)], true),
                ],
            }],
            x_label: "steps",
        };
        let size = Size::from_str("500x400").map_err(anyhow::Error::msg)?;
        let pixels = chart.draw(size)?;
        assert_eq!((pixels.width(), pixels.height()), (500, 400));

        // The panel's inner borders, whose values are 0 and 100, −0.5 and 10.5.
        let (left, right) = (LEFT, 500.0 - 2.0 * SPACE);
        let top = SPACE + TEXT + SPACE / 2.0 + TEXT + SPACE;
        let bottom = 400.0 - TEXT - 1.5 * SPACE;
        let seen = |x: f32, y: f32| {
            let x = left + x / 100.0 * (right - left);
            let y = bottom - (y + 0.5) / 11.0 * (bottom - top);
            let pixel = pixels
                .pixel(x as u32, y as u32)
                .map(|pixel| pixel.demultiply());
            pixel.map_or([0; 3], |pixel| [pixel.red(), pixel.green(), pixel.blue()])
        };
        // The rim of a line is mixed with what is behind it.
        let check = |x, y, color: [u8; 3]| {
            let found = seen(x, y);
            let is_near = |(a, b): (&u8, &u8)| a.abs_diff(*b) < 60;
            assert!(found.iter().zip(&color).all(is_near), "{x} {y}: {found:?}");
        };
        // On the line of the first run, between its values; on the dots of the second; and off both.
        check(25.0, 7.5, COLORS[0]);
        check(75.0, 2.5, COLORS[0]);
        check(50.0, 2.0, COLORS[1]);
        check(99.9, 10.0, COLORS[1]);
        check(30.0, 4.0, [255; 3]);
        Ok(())
    }
}

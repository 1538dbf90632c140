//! Curves over time as SVG, as much of it as these plots need.

use std::fmt::Write;

/// A curve: its name, and a value for each second.
pub struct Curve<'a> {
    pub name: &'a str,
    pub values: Vec<f64>,
}

/// What a plot shows.
pub struct Plot<'a> {
    pub title: &'a str,
    pub unit: &'a str,
    /// A logarithmic scale: a decade is as high as the next.
    pub decades: bool,
    pub curves: Vec<Curve<'a>>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 264.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Told apart also by those who see few colours (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

impl Plot<'_> {
    /// The picture.
    pub fn svg(&self) -> String {
        let seconds = self
            .curves
            .iter()
            .map(|curve| curve.values.len())
            .max()
            .unwrap_or(0)
            .max(2);
        let (least, most) = self.range();
        let x = |second: f64| LEFT + second / (seconds - 1) as f64 * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            let scale = |value: f64| {
                if self.decades {
                    value.max(least).log10()
                } else {
                    value
                }
            };
            let part = (scale(value.min(most)) - scale(least)) / (scale(most) - scale(least));
            HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        for tick in self.ticks(least, most) {
            let at = y(tick);
            let right = WIDTH - RIGHT;
            let beside = LEFT - 8.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{beside}\" y=\"{:.1}\" text-anchor=\"end\">{tick} {}</text>",
                at + 4.0,
                self.unit
            );
        }
        for second in (0..seconds).step_by(if seconds > 40 { 10 } else { 5 }) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
                x(second as f64),
                HEIGHT - BOTTOM + 20.0
            );
        }
        // The first lies above the others.
        for (number, curve) in self.curves.iter().enumerate().rev() {
            let points: Vec<String> = (0..)
                .zip(&curve.values)
                .map(|(second, value)| format!("{:.1},{:.1}", x(f64::from(second)), y(*value)))
                .collect();
            let colour = COLOURS[number % COLOURS.len()];
            let width = if number == 0 { 3.5 } else { 1.8 };
            let row = TOP + 14.0 + 24.0 * number as f64;
            let right = WIDTH - RIGHT + 16.0;
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>\n\
                 <line x1=\"{right}\" x2=\"{}\" y1=\"{row}\" y2=\"{row}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                points.join(" "),
                right + 22.0,
                right + 28.0,
                row + 4.0,
                curve.name
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn range(&self) -> (f64, f64) {
        let values = || self.curves.iter().flat_map(|curve| curve.values.iter().copied());
        let most = values().fold(0.0, f64::max);
        if !self.decades {
            return (0.0, (most / 50.0).ceil().max(1.0) * 50.0);
        }
        let least = values()
            .filter(|value| *value > 0.0)
            .fold(f64::INFINITY, f64::min);
        (
            10_f64.powf(least.log10().floor()),
            10_f64.powf(most.log10().ceil()),
        )
    }

    fn ticks(&self, least: f64, most: f64) -> Vec<f64> {
        if self.decades {
            let decades = least.log10() as i32..=most.log10() as i32;
            return decades.map(|decade| 10_f64.powi(decade)).collect();
        }
        let step = if most > 200.0 { 100.0 } else { 25.0 };
        (0..=(most / step) as usize)
            .map(|nth| nth as f64 * step)
            .collect()
    }
}

//! Accuracy over rounds as a picture, drawn by the program itself.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use super::{measure::Measured, scenario::Scenario};

const SIZE: (u32, u32) = (860, 460);
const LAMP: RGBColor = RGBColor(214, 120, 0);
const NIGHT: RGBColor = RGBColor(38, 52, 84);
const CENTRAL: RGBColor = RGBColor(46, 125, 80);
const ALONE: RGBColor = RGBColor(160, 60, 60);
const NODE: RGBColor = RGBColor(170, 176, 190);

/// Draws nodes, mean, unseen people and baselines into an SVG file.
pub(super) fn draw(file: &Path, scenario: &Scenario, measured: &Measured) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    (|| -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let rounds = measured.releases.len() - 1;
        let judged = |a: &super::measure::Accuracy| a.judged() * 100.0;
        let all = measured
            .releases
            .iter()
            .flat_map(|a| a.own.iter().copied().chain(a.unseen))
            .chain([measured.central.judged(), measured.local_only.judged()]);
        let lowest = all.fold(1.0_f64, f64::min) * 100.0;
        let floor = ((lowest - 3.0) / 5.0).floor().max(0.0) * 5.0;
        let mut chart = ChartBuilder::on(&root)
            .caption(
                &scenario.title,
                ("sans-serif", 20).into_font().color(&NIGHT),
            )
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..rounds as f64, floor..100.0)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(rounds.min(10) + 1)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0} %"))
            .x_desc("round")
            .y_desc("accuracy on samples nobody trained on")
            .bold_line_style(RGBColor(222, 225, 232))
            .axis_style(NIGHT)
            .draw()?;
        let series = |value: &dyn Fn(&super::measure::Accuracy) -> f64| {
            let points = measured.releases.iter().enumerate();
            points
                .map(|(i, a)| (i as f64, value(a)))
                .collect::<Vec<_>>()
        };
        for node in 0..scenario.nodes.len() {
            let line = series(&|a| a.own[node] * 100.0);
            chart.draw_series(LineSeries::new(line, NODE.stroke_width(1)))?;
        }
        let mut named = |points: Vec<(f64, f64)>, color: RGBColor, width, name: String| {
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(width)))
                .map(|s| {
                    s.label(name).legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3))
                    });
                })
        };
        let flat = |value: f64| vec![(0.0, value), (rounds as f64, value)];
        let last = |what: &str, value: f64| format!("{what}: {value:.1} %");
        let judged_line = series(&judged);
        let end = judged_line.last().map_or(0.0, |p| p.1);
        let what = match scenario.unseen {
            Some(_) => format!("fleet, {}", scenario.unseen_name),
            None => "fleet, mean over nodes".to_owned(),
        };
        let central = judged(&measured.central);
        let alone = judged(&measured.local_only);
        named(
            flat(central),
            CENTRAL,
            2,
            last("all data in one place", central),
        )?;
        named(flat(alone), ALONE, 2, last("each node alone", alone))?;
        named(judged_line, LAMP, 4, last(&what, end))?;
        named(
            Vec::new(),
            NODE,
            1,
            "each node's own unseen samples".to_owned(),
        )?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(NIGHT.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    })()
    .map_err(|e| anyhow::anyhow!("{e}"))
    .with_context(|| file.display().to_string())
}

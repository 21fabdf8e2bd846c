//! The figures as bars: a chart for each scenario, in two groups, the cheapest on top.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Figures, Table, short};
use crate::plan;

const WIDTH: i32 = 760;
const ROW: i32 = 22;
const BAR: i32 = 16;
const TOP: i32 = 56;
const BOTTOM: i32 = 12;
/// Where the bars begin: as wide as the longest name.
const LEFT: i32 = 150;
/// Room for a number behind the longest bar.
const RIGHT: i32 = 70;

const FLOOR: RGBColor = RGBColor(0x7f, 0x7f, 0x7f);
const TOWPATH: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const PEER: RGBColor = RGBColor(0x6b, 0x9a, 0xc4);
const LEGEND: [(&str, RGBColor); 3] = [("floor", FLOOR), ("Towpath", TOWPATH), ("peers", PEER)];
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// What is drawn of a scenario: its title, and the figure.
fn figure(table: &Table) -> (&'static str, fn(&Figures) -> Option<f64>) {
    match table.unit {
        "msg/s" => ("CPU µs per message", |figures| figures.cpu_us_per_msg),
        "GB/s" => ("CPU µs per MiB", |figures| figures.cpu_us_per_msg),
        "bytes/conn" => ("bytes per connection", |figures| figures.median),
        _ if table.scenario.starts_with("memory") => {
            ("resident bytes, all tasks", |figures| figures.rss_bytes.map(|bytes| bytes as f64))
        }
        _ => ("ns per operation", |figures| figures.median),
    }
}

/// Rows that are run alike.
struct Group<'a> {
    name: &'static str,
    bars: Vec<(&'a str, f64)>,
}

/// None where there is nothing to draw.
pub fn render(table: &Table) -> Option<Result<String, String>> {
    let (title, figure) = figure(table);
    let group = |name, many| {
        let rows = table.entries.iter().filter(|(entry, _)| entry.row.many == many);
        let bars = rows.filter_map(|(_, figures)| Some((figures.engine.as_str(), figure(figures)?)));
        let mut bars: Vec<(&str, f64)> = bars.collect();
        bars.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        Group { name, bars }
    };
    let mut groups = vec![group("one thread, pinned", false), group("all cores", true)];
    groups.retain(|group| !group.bars.is_empty());
    let longest = groups.iter().flat_map(|group| &group.bars).map(|(_, value)| *value).reduce(f64::max);
    let longest = longest.filter(|value| *value > 0.0)?;
    let title = format!("{}: {title} (less is better)", table.scenario);
    Some(draw(&title, &groups, longest).map_err(|error| error.to_string()))
}

fn draw(title: &str, groups: &[Group], longest: f64) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let lines: usize = groups.iter().map(|group| group.bars.len() + 1).sum();
    let size = (WIDTH as u32, (TOP + ROW * lines as i32 + BOTTOM) as u32);
    let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
    root.fill(&WHITE)?;
    let label = |text, at, size, horizontal| {
        let position = Pos::new(horizontal, VPos::Center);
        Text::new(text, at, ("sans-serif", size).into_font().color(&INK).pos(position))
    };
    root.draw(&label(title.to_owned(), (12, 18), 17, HPos::Left))?;
    for (index, (name, color)) in LEGEND.into_iter().enumerate() {
        let x = LEFT + 90 * index as i32;
        root.draw(&Rectangle::new([(x, 36), (x + 10, 46)], color.filled()))?;
        root.draw(&label(name.to_owned(), (x + 15, 41), 12, HPos::Left))?;
    }
    let mut y = TOP;
    for group in groups {
        root.draw(&label(group.name.to_owned(), (LEFT, y + BAR / 2), 12, HPos::Left))?;
        y += ROW;
        for (name, value) in &group.bars {
            let length = (value / longest * f64::from(WIDTH - LEFT - RIGHT)).round() as i32;
            let (end, middle) = (LEFT + length.max(1), y + BAR / 2);
            root.draw(&label((*name).to_owned(), (LEFT - 8, middle), 13, HPos::Right))?;
            root.draw(&Rectangle::new([(LEFT, y), (end, y + BAR)], color(name).filled()))?;
            root.draw(&label(short(*value), (end + 6, middle), 12, HPos::Left))?;
            y += ROW;
        }
    }
    root.present()?;
    drop(root);
    Ok(text)
}

fn color(row: &str) -> RGBColor {
    match row {
        row if plan::is_floor(row) => FLOOR,
        row if plan::is_towpath(row) => TOWPATH,
        _ => PEER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_for_each() {
        let bars = vec![("floor-uring", 1.0), ("tokio-1", 2.5)];
        let chart = draw("a title", &[Group { name: "a group", bars }], 2.5).unwrap();
        for text in ["a title", "a group", "floor-uring", "tokio-1", "2.50"] {
            assert!(chart.contains(text), "{text}");
        }
    }
}

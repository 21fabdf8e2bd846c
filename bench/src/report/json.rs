//! The figures for programs.

use super::{Figures, Table};

pub fn render(tables: &[Table]) -> Result<String, String> {
    let figures: Vec<&Figures> =
        tables.iter().flat_map(|table| &table.entries).map(|(_, figures)| figures).collect();
    let json = serde_json::to_string_pretty(&figures).map_err(|error| error.to_string())?;
    Ok(json + "\n")
}

//! Results on standard output: a table for people, JSON or YAML for programs.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde::Serialize;

use super::args::Format;
use super::error::CliError;
use crate::store::Owner;

/// What can be shown to people.
pub(crate) trait Show {
    /// As a table, and what does not fit into one below it.
    fn show(&self) -> String;

    /// The same with more columns, if there are more.
    fn wide(&self) -> String {
        self.show()
    }
}

/// A result as text, ending with a newline.
pub(crate) fn render<T: Show + Serialize>(result: &T, format: Format) -> Result<String, CliError> {
    let text = match format {
        Format::Table => Ok(result.show()),
        Format::Wide => Ok(result.wide()),
        Format::Json => serde_json::to_string_pretty(result).map_err(|error| ("JSON", error.to_string())),
        Format::Yaml => serde_saphyr::to_string(result).map_err(|error| ("YAML", error.to_string())),
    };
    let mut text = text.map_err(|(format, reason)| CliError::Format { format, reason })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Writes to standard output, all of it, now.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}

/// A [`table`] of objects; the `wide` one has two columns more, which [`owned`] makes.
pub(crate) fn table_of(
    wide: bool,
    headings: &[&str],
    rows: impl IntoIterator<Item = (Vec<String>, [String; 2])>,
) -> String {
    let more: &[&str] = if wide { &["OWNER", "#GENERATION"] } else { &[] };
    let row = |(mut row, owned): (Vec<String>, [String; 2])| {
        row.extend(owned.into_iter().take(more.len()));
        row
    };
    table(&[headings, more].concat(), rows.into_iter().map(row))
}

/// Whose an object is, and how often it has changed, for [`table_of`].
pub(crate) fn owned(owner: Owner, generation: u64) -> [String; 2] {
    [owner.to_string(), grouped(generation)]
}

/// A table without lines: a heading and rows, columns that start with `#` to the right (the `#` is not shown).
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .remove_style(TableComponent::VerticalLines)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings.iter().map(|heading| heading.trim_start_matches('#')))
        .add_rows(rows);
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            // Two spaces between columns, none at the edges.
            column.set_padding((0, 2));
            if heading.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.trim_fmt() + "\n"
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit (powers of 1,000, as network tools count).
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// What is there, or `-`.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned(), "up".to_owned()],
            vec!["longer".to_owned(), "1,234".to_owned(), "down".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "#PACKETS", "STATE"], rows),
            "NAME    PACKETS  STATE\n\
             a             1  up\n\
             longer    1,234  down\n"
        );
    }

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (18_446_744_073_709_551_615, "18447 PB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}

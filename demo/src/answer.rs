//! What a statement answered, and how it is printed.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};
use postgres::SimpleQueryMessage;
use rust_decimal::Decimal;

const LIKE_PSQL: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction('|'))
    .header_separator(LineStyle::none().fill('-').junction('+'))
    .content_lines(ContentLineStyle::none().junction('|'));

/// Columns and rows as text; null is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl Answer {
    pub fn new(columns: &[&str], rows: Vec<Vec<String>>) -> Self {
        let rows = rows.into_iter().map(|row| row.into_iter().map(Some).collect()).collect();
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows }
    }

    /// Of several statements the last one that answers rows.
    pub fn of(messages: &[SimpleQueryMessage]) -> Self {
        let mut answer = Self::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    let columns = columns.iter().map(|column| column.name().to_owned()).collect();
                    answer = Self { columns, rows: Vec::new() };
                }
                SimpleQueryMessage::Row(row) => answer
                    .rows
                    .push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
                _ => {}
            }
        }
        answer
    }

    /// A value of the first row; null is empty.
    pub fn text(&self, column: &str) -> Result<&str> {
        let index = self.columns.iter().position(|name| name == column);
        let value = index.and_then(|index| self.rows.first()?.get(index));
        Ok(value
            .with_context(|| format!("there is no {column} in the answer"))?
            .as_deref()
            .unwrap_or(""))
    }

    pub fn number(&self, column: &str) -> Result<Decimal> {
        let text = self.text(column)?;
        text.parse().with_context(|| format!("{column} is not a number: \"{text}\""))
    }

    pub fn is(&self, column: &str) -> Result<bool> {
        Ok(self.text(column)? == "t")
    }

    /// The same answer with a column less.
    pub fn without(mut self, column: &str) -> Self {
        if let Some(index) = self.columns.iter().position(|name| name == column) {
            self.columns.remove(index);
            for row in &mut self.rows {
                row.remove(index);
            }
        }
        self
    }

    /// An aligned table; `names` are put in the place of the uuids that they stand for.
    pub fn render(&self, names: &[(String, String)]) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|value| tidy(value.as_deref(), names)).collect())
            .collect();
        let mut table = Table::new();
        table.load_style(LIKE_PSQL);
        table.set_header(&self.columns);
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_number = |row: &Vec<String>| {
                row.get(index).is_none_or(|value| value.is_empty() || parses(value))
            };
            if rows.iter().all(is_number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.add_rows(rows);
        table.trim_fmt()
    }
}

fn parses(value: &str) -> bool {
    value.replace(',', "").parse::<Decimal>().is_ok()
}

/// Text for people: no trailing zeros, no fractions of seconds, names for uuids.
fn tidy(value: Option<&str>, names: &[(String, String)]) -> String {
    let value = match value {
        None => return String::new(),
        Some("t") => return "true".to_owned(),
        Some("f") => return "false".to_owned(),
        Some(value) => value,
    };
    if value.contains('.')
        && let Ok(number) = value.parse::<Decimal>()
    {
        return money(number);
    }
    if let Some((time, fraction)) = value.rsplit_once('.')
        && time.contains(':')
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return time.to_owned();
    }
    names.iter().fold(value.to_owned(), |text, (name, id)| text.replace(id, name))
}

/// An amount with the digits that it has, at least two.
pub fn money(amount: Decimal) -> String {
    let mut amount = amount.normalize();
    if amount.scale() < 2 {
        amount.rescale(2);
    }
    amount.to_string()
}

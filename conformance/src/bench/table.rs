//! Draws reports beside each other as one table. The first report's server is the one that ratios are of.

use std::fmt::Write;

use super::measure::{Report, Unit};

/// A Markdown table: one row a measure, one column a server, and for each further server how many times better the first one is.
pub fn draw(reports: &[Report]) -> String {
    let Some((first, others)) = reports.split_first() else { return String::new() };
    let mut rows = vec![header(first, others)];
    for measure in &first.measures {
        let mut row = vec![measure.work.clone(), value(measure.value, measure.unit)];
        for other in others {
            let same = other.find(measure.key);
            row.push(same.map_or_else(|| "-".to_owned(), |m| value(m.value, m.unit)));
            row.push(same.and_then(|m| measure.times_better(m)).map_or_else(String::new, ratio));
        }
        rows.push(row);
    }
    align(&rows)
}

fn header(first: &Report, others: &[Report]) -> Vec<String> {
    let mut row = vec!["work".to_owned(), first.server.clone()];
    for other in others {
        row.push(other.server.clone());
        row.push(format!("better than {}", other.server));
    }
    row
}

fn ratio(times: f64) -> String {
    if times < 10.0 { format!("{times:.2} x") } else { format!("{times:.0} x") }
}

fn value(value: f64, unit: Unit) -> String {
    let number = if value >= 1000.0 {
        grouped(value)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    };
    match unit {
        Unit::PerSecond => format!("{number}/s"),
        Unit::Seconds => format!("{number} s"),
        Unit::Milliseconds => format!("{number} ms"),
        Unit::Microseconds => format!("{number} us"),
        Unit::Megabytes => format!("{number} MB"),
        Unit::Kilobytes => format!("{number} KB"),
        Unit::Bytes => format!("{} B", grouped(value)),
        Unit::Count => grouped(value),
        // Rounding must not hide a lost event.
        Unit::Percent => format!("{} %", (value * 100.0).floor() / 100.0),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ =
                    if column == 0 { write!(text, "|{:-<w$}", "", w = width + 2) } else { write!(text, "|{:->w$}:", "", w = width + 1) };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Better, Measure};
    use super::*;

    #[test]
    fn servers_stand_beside_each_other_with_ratios_of_the_first() {
        let report = |server: &str, rate, start: Option<f64>| {
            let mut measures: Vec<Measure> = start.map(|ms| Measure::milliseconds("start", "start", ms)).into_iter().collect();
            measures.push(Measure::per_second("get", "GET", rate));
            measures.push(Measure::new("bytes", "bytes", 3200.0, Unit::Bytes, Better::Neither));
            Report { server: server.into(), measures }
        };
        let drawn = draw(&[report("a", 30_000.0, Some(50.0)), report("b", 2000.0, Some(125.0)), report("c", 60_000.0, None)]);
        let expected = "\
| work  |        a |       b | better than b |        c | better than c |
|-------|---------:|--------:|--------------:|---------:|--------------:|
| start |  50.0 ms |  125 ms |        2.50 x |        - |               |
| GET   | 30,000/s | 2,000/s |          15 x | 60,000/s |        0.50 x |
| bytes |  3,200 B | 3,200 B |               |  3,200 B |               |
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_lost_event_is_never_rounded_away() {
        assert_eq!(value(100.0, Unit::Percent), "100 %");
        assert_eq!(value(399_999.0 / 4000.0, Unit::Percent), "99.99 %");
    }
}

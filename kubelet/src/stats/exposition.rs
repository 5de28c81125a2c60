//! Prometheus' text format, with numbers as Go prints them.

use std::fmt::Write;

use client::metrics::{Number, escaped};

/// A page of metrics.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: &mut self.0, name: name.to_owned() }
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

pub struct Family<'a> {
    page: &'a mut String,
    name: String,
}

impl Family<'_> {
    /// One series; the time is in milliseconds.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64, time_ms: Option<i64>) {
        self.write("", labels, value, time_ms);
    }

    /// One of the series that make up a histogram, named by the suffix.
    pub fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.write(suffix, labels, value, None);
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64, time_ms: Option<i64>) {
        self.page.push_str(&self.name);
        self.page.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.page, "{open}{name}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        let _ = write!(self.page, " {}", Number(value));
        if let Some(time) = time_ms {
            let _ = write!(self.page, " {time}");
        }
        self.page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_scrapers_read_them() {
        let mut page = Page::default();
        let mut family = page.family("a_total", "counter", "[STABLE] A.");
        family.sample(&[], 1.0, None);
        family.sample(&[("pod", "p\"q"), ("namespace", "n")], 0.25, Some(17));
        assert_eq!(
            page.into_text(),
            "# HELP a_total [STABLE] A.\n# TYPE a_total counter\na_total 1\na_total{pod=\"p\\\"q\",namespace=\"n\"} 0.25 17\n"
        );
    }

    #[test]
    fn numbers_look_as_in_go() {
        let cases = [
            (0.0, "0"),
            (1.5, "1.5"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (1_073_741_824.0, "1.073741824e+09"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
        ];
        for (value, expect) in cases {
            assert_eq!(Number(value).to_string(), expect);
        }
    }
}

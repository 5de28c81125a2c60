//! What checks of health found: `/metrics/slis`.

use apimachinery::metrics::{Counter, Family, Gauge, Told, counters, gauges, render};

pub struct Health {
    now: Family<Gauge>,
    total: Family<Counter>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            now: gauges("kubernetes_healthcheck", "[STABLE] Whether a check was passed when it was last made.", &["name", "type"]),
            total: counters(
                "kubernetes_healthchecks_total",
                "[STABLE] Checks that were made, by what was found.",
                &["name", "status", "type"],
            ),
        }
    }
}

impl Health {
    /// `endpoint`: who asked, such as `livez`.
    pub fn checked(&self, check: &str, endpoint: &str, is_passed: bool) {
        self.now.with(&[check, endpoint]).set(f64::from(u8::from(is_passed)));
        self.total.with(&[check, if is_passed { "success" } else { "error" }, endpoint]).inc();
    }

    pub fn render(&self, out: &mut String) {
        let told: [&dyn Told; 2] = [&self.now, &self.total];
        render(out, &told);
    }
}

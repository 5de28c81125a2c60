//! When a cron schedule fires: the arithmetic over the sets that [`apimachinery::cron`] reads, as robfig/cron v3 does it.
//!
//! Pure. Times are seconds since the epoch. Where clocks are put forward, what falls into the gap is left out; where they are put back,
//! hours come twice.

use apimachinery::cron::{self, Fields};
use apimachinery::time_zone;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// A schedule that fires in no year up to this many from now never does, for instance on 30 February.
const YEARS: i16 = 5;

const NANOSECONDS: i64 = 1_000_000_000;

/// A schedule with its time zone.
#[derive(Clone, Debug)]
pub enum Schedule {
    Fields(Box<Fields>, TimeZone),
    /// Every so many seconds.
    Every(i64),
}

impl Schedule {
    /// Reads a CronJob's schedule; a zone in the schedule itself counts before `zone`. The error is the text that events show.
    pub fn parse(schedule: &str, zone: Option<&str>) -> Result<Schedule, String> {
        let zone = match zone {
            Some(name) => time_zone::load(name)?,
            None => TimeZone::UTC,
        };
        match cron::parse(schedule)? {
            cron::Schedule::Every(nanoseconds) => Ok(Schedule::Every((nanoseconds / NANOSECONDS).max(1))),
            cron::Schedule::Fields(fields) => {
                let zone = fields.time_zone.clone().unwrap_or(zone);
                Ok(Schedule::Fields(Box::new(fields), zone))
            }
        }
    }

    /// The first time after `after`; nothing if there is none.
    pub fn next(&self, after: i64) -> Option<i64> {
        match self {
            Schedule::Every(seconds) => after.checked_add(*seconds),
            Schedule::Fields(fields, zone) => Search { fields, zone }.after(after),
        }
    }
}

struct Search<'a> {
    fields: &'a Fields,
    zone: &'a TimeZone,
}

impl Search<'_> {
    fn local(&self, at: Timestamp) -> DateTime {
        self.zone.to_datetime(at)
    }

    fn at(&self, local: DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(local).ok()
    }

    fn day_matches(&self, local: DateTime) -> bool {
        let f = self.fields;
        let of_month = f.day_of_month.contains(local.day().unsigned_abs().into());
        let of_week = f.day_of_week.contains(local.weekday().to_sunday_zero_offset().unsigned_abs().into());
        if f.day_of_month.unrestricted || f.day_of_week.unrestricted { of_month && of_week } else { of_month || of_week }
    }

    /// Goes from the largest unit to the smallest; whenever one wraps around, the larger ones are looked at again.
    fn after(&self, after: i64) -> Option<i64> {
        let f = self.fields;
        // Minutes are the finest unit: the first candidate is the next full one.
        let mut at = Timestamp::from_second(after.checked_add(60)?.div_euclid(60).checked_mul(60)?).ok()?;
        let last_year = self.local(at).year().saturating_add(YEARS);
        loop {
            let local = self.local(at);
            if local.year() > last_year {
                return None;
            }
            if !f.month.contains(local.month().unsigned_abs().into()) {
                let first = local.date().first_of_month().checked_add(Span::new().months(1)).ok()?;
                at = self.at(first.at(0, 0, 0, 0))?;
            } else if !self.day_matches(local) {
                let midnight = local.date().tomorrow().ok()?.at(0, 0, 0, 0);
                at = self.at(midnight)?;
            } else if !f.hour.contains(local.hour().unsigned_abs().into()) {
                // Hours are counted on the clock that runs on, so that none is skipped or looped over where zones change.
                let into = SignedDuration::from_secs(i64::from(local.minute()) * 60);
                at = at.checked_add(SignedDuration::from_secs(3600) - into).ok()?;
            } else if !f.minute.contains(local.minute().unsigned_abs().into()) {
                at = at.checked_add(SignedDuration::from_secs(60)).ok()?;
            } else {
                return Some(at.as_second());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> Option<String> {
        let next = Schedule::parse(schedule, zone).unwrap().next(second(after))?;
        Some(Timestamp::from_second(next).unwrap().to_string())
    }

    #[test]
    fn the_next_time_is_strictly_later() {
        for (schedule, after, want) in [
            ("* * * * *", "2024-05-06T07:08:09Z", "2024-05-06T07:09:00Z"),
            ("* * * * *", "2024-05-06T07:08:00Z", "2024-05-06T07:09:00Z"),
            ("*/15 * * * *", "2024-05-06T07:46:00Z", "2024-05-06T08:00:00Z"),
            ("0 0 * * *", "2024-02-28T12:00:00Z", "2024-02-29T00:00:00Z"),
            ("30 4 1 1 *", "2024-02-28T12:00:00Z", "2025-01-01T04:30:00Z"),
            ("0 0 29 2 *", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 12 * * MON-FRI", "2024-05-03T12:00:00Z", "2024-05-06T12:00:00Z"),
            ("0 0 13 * 5", "2024-05-01T00:00:00Z", "2024-05-03T00:00:00Z"),
            ("@hourly", "2024-12-31T23:30:00Z", "2025-01-01T00:00:00Z"),
            ("@every 90s", "2024-05-06T07:08:09Z", "2024-05-06T07:09:39Z"),
        ] {
            assert_eq!(next(schedule, None, after).as_deref(), Some(want), "{schedule} after {after}");
        }
        assert_eq!(next("0 0 30 2 *", None, "2024-01-01T00:00:00Z"), None);
    }

    #[test]
    fn times_are_those_of_the_zone() {
        for (schedule, zone, after, want) in [
            ("0 9 * * *", Some("Asia/Tokyo"), "2024-05-06T00:00:00Z", "2024-05-07T00:00:00Z"),
            ("TZ=Asia/Tokyo 0 9 * * *", None, "2024-05-06T00:00:00Z", "2024-05-07T00:00:00Z"),
            ("0 9 * * *", Some("Asia/Kolkata"), "2024-05-06T00:00:00Z", "2024-05-06T03:30:00Z"),
            // 02:30 does not exist on 10 March in New York.
            ("30 2 * * *", Some("America/New_York"), "2024-03-10T05:00:00Z", "2024-03-11T06:30:00Z"),
            // 01:30 comes twice on 3 November.
            ("30 1 * * *", Some("America/New_York"), "2024-11-03T04:00:00Z", "2024-11-03T05:30:00Z"),
            ("30 1 * * *", Some("America/New_York"), "2024-11-03T05:30:00Z", "2024-11-03T06:30:00Z"),
            // Midnight does not exist on 8 September in Santiago.
            ("0 0 * * *", Some("America/Santiago"), "2024-09-07T12:00:00Z", "2024-09-09T03:00:00Z"),
        ] {
            assert_eq!(next(schedule, zone, after).as_deref(), Some(want), "{schedule} {zone:?} after {after}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        assert_eq!(Schedule::parse("* * *", None).err().as_deref(), Some("expected exactly 5 fields, found 3: [* * *]"));
        assert_eq!(Schedule::parse("* * * * *", Some("Mars/Base")).err().as_deref(), Some("unknown time zone Mars/Base"));
    }
}

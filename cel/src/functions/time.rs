//! Timestamps and durations: their parts, in UTC or in a time zone, and how they are read and written.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("getFullYear", "timestamp_to_year", "timestamp.() -> int", year),
    ("getFullYear", "timestamp_to_year_with_tz", "timestamp.(string) -> int", year),
    ("getMonth", "timestamp_to_month", "timestamp.() -> int", month),
    ("getMonth", "timestamp_to_month_with_tz", "timestamp.(string) -> int", month),
    ("getDayOfYear", "timestamp_to_day_of_year", "timestamp.() -> int", day_of_year),
    ("getDayOfYear", "timestamp_to_day_of_year_with_tz", "timestamp.(string) -> int", day_of_year),
    ("getDayOfMonth", "timestamp_to_day_of_month", "timestamp.() -> int", day_of_month),
    ("getDayOfMonth", "timestamp_to_day_of_month_with_tz", "timestamp.(string) -> int", day_of_month),
    ("getDate", "timestamp_to_day_of_month_1_based", "timestamp.() -> int", date),
    ("getDate", "timestamp_to_day_of_month_1_based_with_tz", "timestamp.(string) -> int", date),
    ("getDayOfWeek", "timestamp_to_day_of_week", "timestamp.() -> int", day_of_week),
    ("getDayOfWeek", "timestamp_to_day_of_week_with_tz", "timestamp.(string) -> int", day_of_week),
    ("getHours", "timestamp_to_hours", "timestamp.() -> int", hours),
    ("getHours", "timestamp_to_hours_with_tz", "timestamp.(string) -> int", hours),
    ("getHours", "duration_to_hours", "duration.() -> int", duration_hours),
    ("getMinutes", "timestamp_to_minutes", "timestamp.() -> int", minutes),
    ("getMinutes", "timestamp_to_minutes_with_tz", "timestamp.(string) -> int", minutes),
    ("getMinutes", "duration_to_minutes", "duration.() -> int", duration_minutes),
    ("getSeconds", "timestamp_to_seconds", "timestamp.() -> int", seconds),
    ("getSeconds", "timestamp_to_seconds_tz", "timestamp.(string) -> int", seconds),
    ("getSeconds", "duration_to_seconds", "duration.() -> int", duration_seconds),
    ("getMilliseconds", "timestamp_to_milliseconds", "timestamp.() -> int", milliseconds),
    ("getMilliseconds", "timestamp_to_milliseconds_with_tz", "timestamp.(string) -> int", milliseconds),
    ("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", duration_milliseconds),
];

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds.
const MIN_SECONDS: i128 = -62_135_596_800;
const MAX_SECONDS: i128 = 253_402_300_799;

const BILLION: i128 = 1_000_000_000;

/// A time between the years 1 and 9999, in UTC: nanoseconds since 1970. Libraries' times end a day before the language's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(i128);

/// A time's calendar date and time of day.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    /// Seconds since midnight.
    second: i64,
    /// Days since 1970.
    days: i64,
}

impl Time {
    pub(crate) fn from_nanos(nanos: i128) -> Option<Time> {
        (MIN_SECONDS..=MAX_SECONDS).contains(&nanos.div_euclid(BILLION)).then_some(Time(nanos))
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> i128 {
        self.0
    }

    fn seconds(self) -> i64 {
        i64::try_from(self.0.div_euclid(BILLION)).unwrap_or(0)
    }

    fn civil(self, offset: i64) -> Civil {
        let seconds = self.seconds() + offset;
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // The calendar in cycles of 400 years that begin in March.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Civil { year, month, day, second, days }
    }
}

/// RFC 3339 with as many digits of the second as there are.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, second, .. } = self.civil(0);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)?;
        let nanos = self.0.rem_euclid(BILLION);
        if nanos > 0 {
            write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// RFC 3339, as Go parses it.
pub(crate) fn parse_timestamp(text: &str) -> Option<Time> {
    let moment = apimachinery::time::parse_time(text).ok()?;
    let exact = moment.timestamp();
    let seconds = i128::from(moment.unix_seconds());
    let fraction = if exact.as_second() == moment.unix_seconds() || exact.as_nanosecond().div_euclid(BILLION) == seconds {
        exact.as_nanosecond().rem_euclid(BILLION)
    } else {
        0
    };
    Time::from_nanos(seconds * BILLION + fraction)
}

/// A `date` of a schema: at midnight in UTC.
pub(crate) fn parse_date(text: &str) -> Option<Time> {
    if text.len() == 10 { parse_timestamp(&format!("{text}T00:00:00Z")) } else { None }
}

/// A `date-time` of a schema, which is more forgiving than the language itself.
pub(crate) fn parse_date_time(text: &str) -> Option<Time> {
    if text.is_empty() {
        return Time::from_nanos(0);
    }
    let upper = text.to_ascii_uppercase();
    // Without a zone it is UTC.
    parse_timestamp(&upper).or_else(|| parse_timestamp(&format!("{upper}Z")))
}

/// A `duration` of a schema: Go's form, or a number and a unit in words.
pub(crate) fn parse_schema_duration(text: &str) -> Option<i64> {
    if let Ok(nanos) = apimachinery::time::parse_duration(text) {
        return Some(nanos);
    }
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], 1_000_000_000),
        (&["m", "min"], 60_000_000_000),
        (&["h", "hr", "hour"], 3_600_000_000_000),
        (&["d", "day"], 86_400_000_000_000),
        (&["w", "wk", "week"], 604_800_000_000_000),
    ];
    let mut total: i64 = 0;
    let mut rest = text.trim();
    let mut found = false;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit = rest[..letters].to_lowercase();
        let singular = unit.strip_suffix('s').filter(|u| u.len() > 1).unwrap_or(&unit);
        let (_, nanos) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str()) || names.contains(&singular))?;
        total = total.checked_add(number.checked_mul(*nanos)?)?;
        rest = rest[letters..].trim_start();
        found = true;
    }
    found.then_some(total)
}

/// Seconds, with a fraction where there is one.
pub(crate) fn duration_text(nanos: i64) -> String {
    let seconds = (nanos / 1_000_000_000) as f64 + (nanos % 1_000_000_000) as f64 / 1e9;
    format!("{seconds}s")
}

/// Seconds east of Greenwich of a zone, by its name or in hours and minutes.
fn offset(time: Time, zone: &str) -> Result<i64, EvalError> {
    let Some((hours, minutes)) = zone.split_once(':') else {
        let zone: TimeZone = apimachinery::time_zone::load(zone).map_err(EvalError::new)?;
        let nearest = if time.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let at = Timestamp::from_nanosecond(time.0).unwrap_or(nearest);
        return Ok(zone.to_offset(at).seconds().into());
    };
    let number = |text: &str| text.parse::<i64>().map_err(|_| EvalError::new(format!("strconv.Atoi: parsing {text:?}: invalid syntax")));
    let (hour, minute) = (number(hours)?, number(minutes)?);
    let sign = if hours.starts_with('-') { -1 } else { 1 };
    Ok(hour.saturating_mul(3600).saturating_add(sign * minute.saturating_mul(60)).clamp(-1_000_000, 1_000_000))
}

fn part<'a>(args: &[Value<'a>], of: fn(&Civil) -> i64) -> Evaluated<'a> {
    let Value::Timestamp(time) = &args[0] else { return Err(EvalError::no_such_overload()) };
    let offset = match args.get(1) {
        Some(zone) => offset(*time, zone.as_str().unwrap_or_default())?,
        None => 0,
    };
    Ok(Value::Int(of(&time.civil(offset))))
}

fn year<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.year)
}

fn month<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.month - 1)
}

fn day_of_year<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| {
        let is_leap = civil.year % 4 == 0 && (civil.year % 100 != 0 || civil.year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let month = usize::try_from(civil.month - 1).unwrap_or(0);
        before[month] + i64::from(is_leap && civil.month > 2) + civil.day - 1
    })
}

fn day_of_month<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.day - 1)
}

fn date<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.day)
}

/// The first day of 1970 was a Thursday.
fn day_of_week<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| (civil.days + 4).rem_euclid(7))
}

fn hours<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.second / 3600)
}

fn minutes<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.second / 60 % 60)
}

fn seconds<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |civil| civil.second % 60)
}

/// No zone changes them.
fn milliseconds<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, |_| 0)?;
    match &args[0] {
        Value::Timestamp(time) => Ok(Value::Int(i64::try_from(time.0.rem_euclid(BILLION) / 1_000_000).unwrap_or(0))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn whole<'a>(args: &[Value<'a>], unit: i64) -> Evaluated<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Int(nanos / unit)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn duration_hours<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    whole(args, 3_600_000_000_000)
}

fn duration_minutes<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    whole(args, 60_000_000_000)
}

fn duration_seconds<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    whole(args, 1_000_000_000)
}

fn duration_milliseconds<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    whole(args, 1_000_000)
}

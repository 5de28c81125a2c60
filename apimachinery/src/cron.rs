//! Cron schedules in the grammar of robfig/cron v3, which CronJobs are written in: five fields or a descriptor, with an
//! optional `TZ=` or `CRON_TZ=` in front.
//!
//! Owns the grammar and its error texts. When a schedule fires next is the reader's arithmetic over the sets of
//! minutes, hours and days that are given here.

use jiff::tz::TimeZone;

use crate::field::quote;
use crate::time::parse_duration;
use crate::time_zone;

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// At the times that the sets name.
    Fields(Fields),
    /// Every so many nanoseconds (`@every 1h30m`).
    Every(i64),
}

/// The sets of a schedule with five fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    pub minute: Set,
    pub hour: Set,
    pub day_of_month: Set,
    pub month: Set,
    /// 0 is Sunday.
    pub day_of_week: Set,
    /// `None` where the schedule names no zone.
    pub time_zone: Option<TimeZone>,
}

/// Some numbers below 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    bits: u64,
    /// Written with `*` or `?`: when both day fields are restricted either may match, else both must.
    pub unrestricted: bool,
}

impl Set {
    pub fn contains(self, number: u32) -> bool {
        number < u64::BITS && self.bits >> number & 1 == 1
    }

    fn all(bounds: &Bounds) -> Set {
        Set { bits: bits(bounds.min, bounds.max, 1), unrestricted: true }
    }

    fn first(bounds: &Bounds) -> Set {
        Set { bits: 1 << bounds.min, unrestricted: false }
    }
}

struct Bounds {
    min: u64,
    max: u64,
    /// Names of numbers, the first being `min`.
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds =
    Bounds { min: 1, max: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] };
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// Parses a schedule; the error is the text that clients see.
pub fn parse(schedule: &str) -> Result<Schedule, String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let (zone, rest) = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        None => (None, schedule),
        Some(rest) => {
            // The reference cuts at a space that it takes for granted, and reports its own panic.
            let Some((name, rest)) = rest.split_once(' ') else {
                return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned());
            };
            let zone = time_zone::load(name).map_err(|error| format!("provided bad location {name}: {error}"))?;
            (Some(zone), rest.trim())
        }
    };
    if rest.starts_with('@') {
        return descriptor(rest, zone);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let &[minute, hour, day_of_month, month, day_of_week] = fields.as_slice() else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    Ok(Schedule::Fields(Fields {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day_of_month: field(day_of_month, &DAYS)?,
        month: field(month, &MONTHS)?,
        day_of_week: field(day_of_week, &WEEKDAYS)?,
        time_zone: zone,
    }))
}

fn descriptor(text: &str, time_zone: Option<TimeZone>) -> Result<Schedule, String> {
    let (every_hour, every_day, every_month, any_weekday) = match text {
        "@yearly" | "@annually" => (false, false, false, true),
        "@monthly" => (false, false, true, true),
        "@weekly" => (false, true, true, false),
        "@daily" | "@midnight" => (false, true, true, true),
        "@hourly" => (true, true, true, true),
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else { return Err(format!("unrecognized descriptor: {text}")) };
            let duration = parse_duration(duration).map_err(|error| format!("failed to parse duration {text}: {error}"))?;
            return Ok(Schedule::Every(duration));
        }
    };
    let set = |all: bool, bounds: &Bounds| if all { Set::all(bounds) } else { Set::first(bounds) };
    Ok(Schedule::Fields(Fields {
        minute: Set::first(&MINUTES),
        hour: set(every_hour, &HOURS),
        day_of_month: set(every_day, &DAYS),
        month: set(every_month, &MONTHS),
        day_of_week: set(any_weekday, &WEEKDAYS),
        time_zone,
    }))
}

/// Ranges separated by commas; empty ones do not count.
fn field(text: &str, bounds: &Bounds) -> Result<Set, String> {
    let mut set = Set { bits: 0, unrestricted: false };
    for expression in text.split(',').filter(|part| !part.is_empty()) {
        let one = range(expression, bounds)?;
        set.bits |= one.bits;
        set.unrestricted |= one.unrestricted;
    }
    Ok(set)
}

/// `number`, `number-number` or `*`, with an optional `/step`.
fn range(expression: &str, bounds: &Bounds) -> Result<Set, String> {
    let parts: Vec<&str> = expression.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let star = ends[0] == "*" || ends[0] == "?";
    let (start, mut end) = match ends.as_slice() {
        _ if star => (bounds.min, bounds.max),
        [one] => {
            let number = number_or_name(one, bounds)?;
            (number, number)
        }
        [low, high] => (number_or_name(low, bounds)?, number_or_name(high, bounds)?),
        [low, ..] => {
            number_or_name(low, bounds)?;
            return Err(format!("too many hyphens: {expression}"));
        }
        [] => return Err(format!("too many hyphens: {expression}")),
    };
    let mut unrestricted = star;
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            // "5/15" goes on to the end.
            if ends.len() == 1 {
                end = bounds.max;
            }
            unrestricted &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {expression}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {expression}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {expression}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {expression}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {expression}"));
    }
    Ok(Set { bits: bits(start, end, step), unrestricted })
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().zip(bounds.min..).find(|(name, _)| **name == lower) {
        Some((_, number)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let failed = |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", quote(text));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(failed("invalid syntax"));
    }
    let number: i64 = text.parse().map_err(|_| failed("value out of range"))?;
    u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

/// `start` and `end` are below 64.
fn bits(start: u64, end: u64, step: u64) -> u64 {
    let mut bits = 0;
    let mut next = Some(start);
    while let Some(number) = next.filter(|n| *n <= end) {
        bits |= 1 << number;
        next = number.checked_add(step);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(schedule: &str) -> Fields {
        match parse(schedule) {
            Ok(Schedule::Fields(fields)) => fields,
            other => panic!("{schedule}: {other:?}"),
        }
    }

    #[test]
    fn fields_name_sets_of_numbers() {
        let numbers = |set: Set| (0..60).filter(|n| set.contains(*n)).collect::<Vec<u32>>();
        let f = fields("*/20 1-3,5 ? JAN-mar/2 5/1");
        assert_eq!(numbers(f.minute), [0, 20, 40]);
        assert_eq!(numbers(f.hour), [1, 2, 3, 5]);
        assert_eq!(numbers(f.month), [1, 3]);
        assert_eq!(numbers(f.day_of_week), [5, 6]);
        assert_eq!((f.minute.unrestricted, f.day_of_month.unrestricted), (false, true));
        assert_eq!(
            fields("TZ=Asia/Tokyo  0 0 * * *").time_zone.and_then(|z| z.iana_name().map(str::to_owned)).as_deref(),
            Some("Asia/Tokyo")
        );
        assert_eq!(fields("@weekly").day_of_week, Set { bits: 1, unrestricted: false });
        assert_eq!(parse("@every 1h30m"), Ok(Schedule::Every(5_400_000_000_000)));
    }

    #[test]
    fn errors_read_as_those_of_the_reference() {
        let cases = [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("error", "expected exactly 5 fields, found 1: [error]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/2/3 * * * *", "too many slashes: */2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            (
                "*/99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("-1 * * * *", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
            ("*/-5 * * * *", "negative number (-5) not allowed: -5"),
            ("@reboot", "unrecognized descriptor: @reboot"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("TZ=0", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
            ("CRON_TZ=No/Where * * * * *", "provided bad location No/Where: unknown time zone No/Where"),
        ];
        for (schedule, want) in cases {
            assert_eq!(parse(schedule), Err(want.to_owned()), "{schedule}");
        }
    }
}

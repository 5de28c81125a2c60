//! Whether a CronJob has to start a Job now, and when to look again. Pure. Times are seconds since the epoch.

use k8s_openapi::api::batch::v1::CronJob;

use super::schedule::Schedule;

/// More missed times than this are told as a problem.
const MANY: i64 = 100;

/// The last time that should have been met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub at: i64,
    /// So many were missed that something must be wrong.
    pub too_many_missed: bool,
}

/// A schedule that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time difference between two schedules is less than 1 second")]
pub struct TooFrequent;

struct Missed {
    /// From when on times count.
    earliest: i64,
    last: Option<i64>,
    count: i64,
}

fn missed(cron_job: &CronJob, schedule: &Schedule, now: i64, within_deadline: bool) -> Result<Missed, TooFrequent> {
    let created = cron_job.metadata.creation_timestamp.as_ref();
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut earliest = last.or(created).map_or(0, |time| time.0.as_second());
    if let Some(deadline) = cron_job.spec.starting_deadline_seconds.filter(|_| within_deadline) {
        earliest = earliest.max(now.saturating_sub(deadline));
    }
    let none = Missed { earliest, last: None, count: 0 };
    let Some(first) = schedule.next(earliest).filter(|first| *first <= now) else { return Ok(none) };
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Ok(Missed { last: Some(first), ..none });
    };
    let period = second - first;
    if period < 1 {
        return Err(TooFrequent);
    }
    // Jumps near the present instead of walking through all that was missed; periods of one schedule differ, so it walks the rest.
    let count = (now - first) / period + 1;
    let mut last = None;
    let mut next = schedule.next(first + (count - 2) * period);
    while let Some(at) = next.filter(|at| *at <= now) {
        last = Some(at);
        next = schedule.next(at);
    }
    Ok(Missed { earliest, last, count })
}

/// The last time that should have been met and is not noted as met; nothing if there is none.
pub fn due(cron_job: &CronJob, schedule: &Schedule, now: i64) -> Result<Option<Due>, TooFrequent> {
    let missed = missed(cron_job, schedule, now, true)?;
    Ok(missed.last.map(|at| Due { at, too_many_missed: missed.count > MANY }))
}

/// The time after the last one; nothing if the schedule never fires again.
pub fn next_time(cron_job: &CronJob, schedule: &Schedule, now: i64) -> Option<i64> {
    let from = match missed(cron_job, schedule, now, false) {
        Ok(Missed { last: Some(last), .. }) => last,
        Ok(Missed { earliest, count: 0, .. }) => earliest,
        Ok(_) | Err(TooFrequent) => now,
    };
    schedule.next(from)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn cron_job(created: &str, last: Option<&str>, deadline: Option<i64>) -> CronJob {
        let mut cron_job = CronJob::default();
        cron_job.metadata.creation_timestamp = Some(Time(created.parse().unwrap()));
        cron_job.status.get_or_insert_default().last_schedule_time = last.map(|last| Time(last.parse().unwrap()));
        cron_job.spec.starting_deadline_seconds = deadline;
        cron_job
    }

    #[test]
    fn the_last_missed_time_is_due() {
        let hourly = Schedule::parse("0 * * * *", None).unwrap();
        let created = "2024-05-06T00:30:00Z";
        for (last, deadline, now, want, many) in [
            (None, None, "2024-05-06T00:59:59Z", None, false),
            (None, None, "2024-05-06T01:00:00Z", Some("2024-05-06T01:00:00Z"), false),
            (None, None, "2024-05-06T05:10:00Z", Some("2024-05-06T05:00:00Z"), false),
            (Some("2024-05-06T05:00:00Z"), None, "2024-05-06T05:10:00Z", None, false),
            (Some("2024-05-06T04:00:00Z"), Some(300), "2024-05-06T05:10:00Z", None, false),
            (Some("2024-05-06T04:00:00Z"), Some(900), "2024-05-06T05:10:00Z", Some("2024-05-06T05:00:00Z"), false),
            (None, None, "2024-06-06T05:10:00Z", Some("2024-06-06T05:00:00Z"), true),
        ] {
            let due = due(&cron_job(created, last, deadline), &hourly, second(now)).unwrap();
            assert_eq!(due, want.map(|want| Due { at: second(want), too_many_missed: many }), "{last:?} {deadline:?} {now}");
        }
    }

    #[test]
    fn periods_may_differ() {
        let weekdays = Schedule::parse("30 6-16/4 * * 1-5", None).unwrap();
        let cron_job = cron_job("2022-10-10T10:15:00Z", None, None);
        let due = |now| due(&cron_job, &weekdays, second(now)).unwrap().map(|due| due.at);
        assert_eq!(due("2022-10-11T07:00:00Z"), Some(second("2022-10-11T06:30:00Z")));
        // As upstream: a jump by the first period lands on Sunday, and what is before it is not looked for.
        assert_eq!(due("2022-10-16T12:00:00Z"), None);
        assert_eq!(next_time(&cron_job, &weekdays, second("2022-10-16T12:00:00Z")), Some(second("2022-10-17T06:30:00Z")));
    }

    #[test]
    fn the_next_look_is_at_the_next_time() {
        let hourly = Schedule::parse("0 * * * *", None).unwrap();
        let next = |last, now: &str| next_time(&cron_job("2024-05-06T00:30:00Z", last, None), &hourly, second(now));
        assert_eq!(next(None, "2024-05-06T00:40:00Z"), Some(second("2024-05-06T01:00:00Z")));
        assert_eq!(next(None, "2024-05-06T05:10:00Z"), Some(second("2024-05-06T06:00:00Z")));
        assert_eq!(next(Some("2024-05-06T05:00:00Z"), "2024-05-06T05:10:00Z"), Some(second("2024-05-06T06:00:00Z")));
    }
}

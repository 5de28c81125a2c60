//! Sets of completion indexes as text: `1,3-5,7`.

use apimachinery::field::quote;

/// How many indexes the text names. They ascend, and are below `completions`.
pub fn count(text: &str, completions: i32) -> Result<i32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut total = 0i32;
    let mut last: Option<i32> = None;
    for interval in text.split(',') {
        let (first, end) = parse_interval(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total = total.saturating_add(end.saturating_sub(first).saturating_add(1));
        last = Some(end);
    }
    Ok(total)
}

/// The first index that both texts name. Intervals that are not well-formed are passed over.
pub fn overlap(completed: &str, failed: &str, completions: i32) -> Result<(), String> {
    if completed.is_empty() || failed.is_empty() {
        return Ok(());
    }
    let intervals = |text: &str| text.split(',').filter_map(|i| parse_interval(i, completions).ok()).collect::<Vec<_>>();
    let (completed, failed) = (intervals(completed), intervals(failed));
    let (mut c, mut f) = (0, 0);
    while let (Some((c_first, c_end)), Some((f_first, f_end))) = (completed.get(c), failed.get(f)) {
        if c_first <= f_end && f_first <= c_end {
            return Err(format!("failedIndexes and completedIndexes overlap at index: {}", c_first.max(f_first)));
        }
        if c_first <= f_first {
            c += 1;
        } else {
            f += 1;
        }
    }
    Ok(())
}

fn parse_interval(text: &str, completions: i32) -> Result<(i32, i32), String> {
    let limits: Vec<&str> = text.split('-').collect();
    match limits.as_slice() {
        [one] => parse_index(one, completions).map(|index| (index, index)),
        [first, end] => {
            let (first, end) = (parse_index(first, completions)?, parse_index(end, completions)?);
            if first >= end {
                return Err(format!("non-increasing order, previous: {first}, current: {end}"));
            }
            Ok((first, end))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            quote(text)
        )),
    }
}

fn parse_index(text: &str, completions: i32) -> Result<i32, String> {
    let index: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {}", quote(text)))?;
    match i32::try_from(index) {
        Ok(index) if index < completions => Ok(index),
        _ => Err(format!("too large index: {}", quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_ascend_below_the_completions() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0,2-4", 5), Ok(4));
        for (text, want) in [
            ("5", "too large index: \"5\""),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            ("1-2-3", "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'"),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("1,", "cannot convert string to integer for index: \"\""),
        ] {
            assert_eq!(count(text, 5), Err(want.to_owned()));
        }
    }

    #[test]
    fn an_index_is_completed_or_failed() {
        assert_eq!(overlap("0,2-3", "1,4", 5), Ok(()));
        assert_eq!(overlap("0-2", "1,x", 5), Err("failedIndexes and completedIndexes overlap at index: 1".to_owned()));
    }
}

//! Sets of completion indexes in the form of the API: `1,3-5,7`. Pure.

use std::fmt;

/// Indexes as ordered, disjoint intervals, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    intervals: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads the text form; what cannot be read is left out, and so is what is not below `completions`.
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut indexes = Indexes::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                tracing::info!(interval = part, "corrupted indexes interval, ignoring");
                continue;
            };
            if first >= completions {
                break;
            }
            indexes.push(first, last.min(completions - 1));
        }
        indexes
    }

    fn push(&mut self, first: i32, last: i32) {
        match self.intervals.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => self.intervals.push((first, last)),
        }
    }

    /// Both sets together.
    pub fn union(&self, other: &Indexes) -> Indexes {
        let mut all: Vec<(i32, i32)> = self.intervals.iter().chain(&other.intervals).copied().collect();
        all.sort_unstable();
        let mut union = Indexes::default();
        all.into_iter().for_each(|(first, last)| union.push(first, last));
        union
    }

    pub fn with(&self, indexes: impl IntoIterator<Item = i32>) -> Indexes {
        self.union(&indexes.into_iter().collect())
    }

    pub fn count(&self) -> i32 {
        self.intervals.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    pub fn contains(&self, index: i32) -> bool {
        let at = self.intervals.partition_point(|(_, last)| *last < index);
        self.intervals.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in both sets.
    pub fn common(&self, other: &Indexes) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        let (mut mine, mut theirs, mut count) = (self.intervals.iter().peekable(), other.intervals.iter().peekable(), 0);
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            count += overlap(a, b);
            if a.1 <= b.1 {
                mine.next();
            } else {
                theirs.next();
            }
        }
        count
    }

    /// The first so many indexes below `completions` that are not in the set.
    pub fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        let gaps = self.intervals.iter().copied().chain([(completions, completions)]);
        for (first, last) in gaps {
            let room = count - missing.len();
            missing.extend((candidate..first.min(completions)).take(room));
            candidate = candidate.max(last.saturating_add(1));
        }
        missing
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(iter: I) -> Indexes {
        let mut sorted: Vec<i32> = iter.into_iter().collect();
        sorted.sort_unstable();
        let mut indexes = Indexes::default();
        sorted.into_iter().for_each(|index| indexes.push(index, index));
        indexes
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.intervals.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Indexes {
        Indexes::parse(text, 100)
    }

    #[test]
    fn the_text_form_is_read_and_written() {
        for (text, want, count) in [
            ("", "", 0),
            ("0", "0", 1),
            ("0,1", "0,1", 2),
            ("0-2", "0-2", 3),
            ("0,1,2,5", "0-2,5", 4),
            ("x,3", "3", 1),
            ("98-200", "98,99", 2),
            ("5,100", "5", 1),
        ] {
            let indexes = parse(text);
            assert_eq!((indexes.to_string().as_str(), indexes.count()), (want, count), "{text:?}");
        }
    }

    #[test]
    fn sets_are_joined_and_compared() {
        assert_eq!(parse("0-2,8").union(&parse("3,7")).to_string(), "0-3,7,8");
        assert_eq!(parse("1,5").with([3, 4, 0]).to_string(), "0,1,3-5");
        assert_eq!(parse("0-5,9").common(&parse("3-9,20")), 4);
        let indexes = parse("2,5-7");
        assert_eq!([1, 2, 3, 5, 6, 7, 8].map(|i| indexes.contains(i)), [false, true, false, true, true, true, false]);
    }

    #[test]
    fn the_first_missing_indexes_are_found() {
        for (text, count, completions, want) in [
            ("", 3, 10, vec![0, 1, 2]),
            ("0,2-3", 3, 10, vec![1, 4, 5]),
            ("1-8", 5, 10, vec![0, 9]),
            ("0-9", 5, 10, vec![]),
            ("0", 0, 10, vec![]),
            ("3-20", 5, 10, vec![0, 1, 2]),
        ] {
            assert_eq!(parse(text).first_missing(count, completions), want, "{text:?}");
        }
    }
}

//! A set of CPUs, or of other numbers that the kernel lists alike: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<usize>);

/// The highest number that is taken for one.
const MAX_CPU: usize = 1 << 16;

impl CpuSet {
    /// Reads the kernel's form.
    pub fn parse(text: &str) -> Result<CpuSet, String> {
        let number = |text: &str| -> Result<usize, String> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = if digits { text.parse::<usize>().ok().filter(|number| *number <= MAX_CPU) } else { None };
            parsed.ok_or_else(|| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
        };
        let mut set = BTreeSet::new();
        for range in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            match range.split_once('-') {
                None => drop(set.insert(number(range)?)),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("invalid range {range:?} ({first} > {last})"));
                    }
                    set.extend(first..=last);
                }
            }
        }
        Ok(CpuSet(set))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    pub fn and(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.intersection(&other.0).copied().collect())
    }

    pub fn or(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.union(&other.0).copied().collect())
    }

    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }

    pub fn contains_all(&self, other: &CpuSet) -> bool {
        self.0.is_superset(&other.0)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (index, (first, last)) in ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written_as_the_kernel_does() {
        for (text, written) in [("", ""), ("0-3,8\n", "0-3,8"), ("2,1,0,5", "0-2,5"), ("7-7", "7")] {
            assert_eq!(CpuSet::parse(text).expect("it is well formed").to_string(), written);
        }
        for (text, error) in [
            ("a", "strconv.Atoi: parsing \"a\": invalid syntax"),
            ("3-1", "invalid range \"3-1\" (3 > 1)"),
            ("1,", "strconv.Atoi: parsing \"\": invalid syntax"),
        ] {
            assert_eq!(CpuSet::parse(text), Err(error.to_owned()));
        }
    }
}

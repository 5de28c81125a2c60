//! What a control group has used, as its files say.

use crate::cgroups::Hierarchies;

/// A group's numbers; what the kernel does not count is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: Option<u64>,
    pub memory: Option<Memory>,
    pub processes: Option<u64>,
    pub swap_bytes: Option<u64>,
}

/// Bytes and faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    /// What cannot be given back at once: all but files that were not touched for long.
    pub working_set: u64,
    pub rss: u64,
    pub cache: u64,
    pub faults: u64,
    pub major_faults: u64,
    pub limit: Option<u64>,
}

/// Limits from here on are none: the kernel's way to write infinity.
const UNLIMITED: u64 = 1 << 62;

/// Reads a group.
pub fn of(hierarchies: &Hierarchies, group: &str) -> Usage {
    let read = |controller: &str, file: &str| hierarchies.read(controller, group, file);
    let number = |controller: &str, file: &str| read(controller, file).and_then(|text| text.trim().parse().ok());
    if hierarchies.is_v2() {
        return Usage {
            cpu_nanos: read("cpu", "cpu.stat").and_then(|stat| field(&stat, "usage_usec")).map(|micros| micros.saturating_mul(1000)),
            memory: number("memory", "memory.current")
                .map(|usage| memory_v2(usage, &read("memory", "memory.stat").unwrap_or_default(), number("memory", "memory.max"))),
            processes: number("pids", "pids.current"),
            swap_bytes: number("memory", "memory.swap.current"),
        };
    }
    let usage: Option<u64> = number("memory", "memory.usage_in_bytes");
    let with_swap: Option<u64> = number("memory", "memory.memsw.usage_in_bytes");
    Usage {
        cpu_nanos: number("cpuacct", "cpuacct.usage"),
        memory: usage
            .map(|usage| memory_v1(usage, &read("memory", "memory.stat").unwrap_or_default(), number("memory", "memory.limit_in_bytes"))),
        processes: number("pids", "pids.current"),
        swap_bytes: with_swap.zip(usage).map(|(with, without)| with.saturating_sub(without)),
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn memory_v1(usage: u64, stat: &str, limit: Option<u64>) -> Memory {
    let of = |name: &str| field(stat, name).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(of("total_inactive_file")),
        rss: of("total_rss"),
        cache: of("total_cache"),
        faults: of("total_pgfault"),
        major_faults: of("total_pgmajfault"),
        limit: limit.filter(|limit| *limit < UNLIMITED),
    }
}

fn memory_v2(usage: u64, stat: &str, limit: Option<u64>) -> Memory {
    let of = |name: &str| field(stat, name).unwrap_or(0);
    Memory {
        usage,
        working_set: usage.saturating_sub(of("inactive_file")),
        rss: of("anon"),
        cache: of("file"),
        faults: of("pgfault"),
        major_faults: of("pgmajfault"),
        limit,
    }
}

/// The whole machine, where its root group has no numbers: from `/proc/stat` and `/proc/meminfo`.
pub fn of_machine(stat: &str, meminfo: &str) -> Usage {
    // The kernel counts in hundredths of a second.
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu ")).map(|line| {
        let columns: Vec<u64> = line.split_whitespace().filter_map(|column| column.parse().ok()).collect();
        // All but idle and waiting for a disk; guests are part of user time.
        columns.iter().take(8).enumerate().filter(|(index, _)| *index != 3 && *index != 4).map(|(_, ticks)| ticks).sum::<u64>()
    });
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let usage = kib("MemTotal").saturating_sub(kib("MemFree"));
    let memory = Memory {
        usage,
        working_set: usage.saturating_sub(kib("Inactive(file)")),
        rss: kib("AnonPages"),
        cache: kib("Cached"),
        ..Memory::default()
    };
    let swap = kib("SwapTotal").saturating_sub(kib("SwapFree"));
    Usage { cpu_nanos: ticks.map(|ticks| ticks.saturating_mul(10_000_000)), memory: Some(memory), processes: None, swap_bytes: Some(swap) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_working_set() {
        let v1 = memory_v1(
            1000,
            "cache 1\nrss 2\ntotal_cache 300\ntotal_rss 500\ntotal_pgfault 7\ntotal_pgmajfault 1\ntotal_inactive_file 200\n",
            Some(u64::MAX / 2),
        );
        let expect = Memory { usage: 1000, working_set: 800, rss: 500, cache: 300, faults: 7, major_faults: 1, limit: None };
        assert_eq!(v1, expect);
        let v2 = memory_v2(1000, "anon 500\nfile 300\ninactive_file 200\npgfault 7\npgmajfault 1\n", Some(5000));
        assert_eq!(v2, Memory { limit: Some(5000), ..expect });
    }

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle() {
        let usage =
            of_machine("cpu  100 20 30 1000 500 6 7 8 100 0\ncpu0 1 1\n", "MemTotal: 100 kB\nMemFree: 40 kB\nInactive(file): 10 kB\n");
        assert_eq!(usage.cpu_nanos, Some(171 * 10_000_000));
        assert_eq!(usage.memory.map(|memory| (memory.usage, memory.working_set)), Some((60 << 10, 50 << 10)));
    }
}

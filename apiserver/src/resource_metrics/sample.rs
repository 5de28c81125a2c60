//! What a kubelet's `/metrics/resource` says at one time, and what two of them say of the time between. Pure.

use std::collections::BTreeMap;

/// A counter and a gauge at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub cpu_seconds: Option<f64>,
    pub memory_bytes: Option<f64>,
}

/// Containers by name.
pub type Containers<T> = BTreeMap<String, T>;
/// Pods by namespace and name.
pub type Pods<T> = BTreeMap<(String, String), Containers<T>>;

/// What is used on a node.
#[derive(Clone, Debug, PartialEq)]
pub struct OfNode<T> {
    pub node: Option<T>,
    pub pods: Pods<T>,
}

impl<T> Default for OfNode<T> {
    fn default() -> OfNode<T> {
        OfNode { node: None, pods: Pods::new() }
    }
}

/// What was used over a window that ends at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub at_ms: i64,
    pub window_ms: i64,
    pub cpu_nano_cores: i64,
    pub memory_bytes: i64,
}

/// Reads a page; lines that say nothing of interest, or nothing at all, are left out. `now_ms` is the time of what has none.
pub fn parse(page: &str, now_ms: i64) -> OfNode<Point> {
    let mut found: OfNode<Point> = OfNode::default();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some(line) = Line::read(line) else { continue };
        let label = |name: &str| line.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default();
        let is_cpu = line.name.ends_with("_cpu_usage_seconds_total");
        let point = match line.name {
            "node_cpu_usage_seconds_total" | "node_memory_working_set_bytes" => found.node.get_or_insert_default(),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
                found.pods.entry((label("namespace"), label("pod"))).or_default().entry(label("container")).or_default()
            }
            _ => continue,
        };
        if is_cpu {
            point.cpu_seconds = Some(line.value);
            point.at_ms = line.at_ms.unwrap_or(now_ms);
        } else {
            point.memory_bytes = Some(line.value);
        }
    }
    found
}

/// What was used between two samples of a node. A pod of which something is not known is left out.
pub fn between(before: &OfNode<Point>, now: &OfNode<Point>) -> OfNode<Usage> {
    let node = before.node.as_ref().zip(now.node.as_ref()).and_then(|(before, now)| usage(before, now));
    let pod = |(key, containers): (&(String, String), &Containers<Point>)| {
        let before = before.pods.get(key)?;
        let of = |(name, now): (&String, &Point)| Some((name.clone(), usage(before.get(name)?, now)?));
        Some((key.clone(), containers.iter().map(of).collect::<Option<Containers<Usage>>>()?))
    };
    OfNode { node, pods: now.pods.iter().filter_map(pod).collect() }
}

/// Whether the later sample has pods or containers that the earlier one does not know.
pub fn has_newer(before: &OfNode<Point>, now: &OfNode<Point>) -> bool {
    let known = |pod: &(String, String), container: &String| before.pods.get(pod).is_some_and(|known| known.contains_key(container));
    now.pods.iter().any(|(pod, containers)| containers.keys().any(|container| !known(pod, container)))
}

/// `None` if no time has passed, or if the counter began anew.
fn usage(before: &Point, now: &Point) -> Option<Usage> {
    let window_ms = now.at_ms - before.at_ms;
    let cpu_seconds = now.cpu_seconds? - before.cpu_seconds?;
    if window_ms <= 0 || cpu_seconds < 0.0 {
        return None;
    }
    let cpu_nano_cores = (cpu_seconds * 1e9 * 1e3 / window_ms as f64) as i64;
    Some(Usage { at_ms: now.at_ms, window_ms, cpu_nano_cores, memory_bytes: now.memory_bytes? as i64 })
}

/// `name{label="value"} number time`, without what may be absent.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(String, String)>,
    value: f64,
    at_ms: Option<i64>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Line<'a>> {
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let mut numbers = rest.split_whitespace();
        let value = numbers.next()?.parse().ok()?;
        Some(Line { name, labels, value, at_ms: numbers.next().and_then(|at| at.parse().ok()) })
    }
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        loop {
            match characters.next()? {
                (at, '"') => {
                    rest = &after[at + 1..];
                    break;
                }
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        }
        labels.push((name.to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seconds: f64, at_ms: i64) -> OfNode<Point> {
        let text = format!(
            "# HELP node_cpu_usage_seconds_total [STABLE]\nnode_cpu_usage_seconds_total {seconds} {at_ms}\nnode_memory_working_set_bytes 4.096e+03 {at_ms}\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} {seconds} {at_ms}\n\
             container_memory_working_set_bytes{{container=\"c\",namespace=\"n\",pod=\"p\"}} 1024 {at_ms}\nscrape_error 0\n"
        );
        parse(&text, 0)
    }

    #[test]
    fn two_samples_tell_what_was_used_between_them() {
        let used = between(&page(10.0, 1_000), &page(10.5, 3_000));
        let expect = |memory_bytes| Usage { at_ms: 3_000, window_ms: 2_000, cpu_nano_cores: 250_000_000, memory_bytes };
        assert_eq!(used.node, Some(expect(4096)));
        assert_eq!(used.pods[&("n".to_owned(), "p".to_owned())]["c"], expect(1024));
    }

    #[test]
    fn what_began_anew_or_was_not_there_before_is_left_out() {
        assert_eq!(between(&page(10.0, 1_000), &page(0.5, 3_000)), OfNode::default());
        assert_eq!(between(&page(10.0, 1_000), &page(10.0, 1_000)), OfNode::default());
        assert_eq!(between(&OfNode::default(), &page(10.0, 1_000)), OfNode::default());
    }

    #[test]
    fn a_new_container_is_noticed() {
        assert!(has_newer(&OfNode::default(), &page(1.0, 1)));
        assert!(!has_newer(&page(1.0, 1), &page(2.0, 2)));
        assert!(!has_newer(&page(1.0, 1), &OfNode::default()));
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        let line = Line::read(r#"a{b="c\"d",e="f\\"} 1.5"#).unwrap();
        assert_eq!(line.labels, [("b".to_owned(), "c\"d".to_owned()), ("e".to_owned(), "f\\".to_owned())]);
        assert_eq!((line.value, line.at_ms), (1.5, None));
        assert!(Line::read("a{b=\"c").is_none());
    }
}

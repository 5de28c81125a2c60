//! Which requests reached a server between two readings of its `/metrics`. Reads `apiserver_request_total` and nothing else.

use std::collections::BTreeMap;

/// Requests by what they were: `PATCH nodes/status`, and of a path that is no resource `GET`.
pub type Requests = BTreeMap<String, u64>;

/// What a page of metrics says has been answered so far.
pub fn totals(page: &str) -> Requests {
    let mut totals = Requests::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
        let Some((labels, number)) = line.rsplit_once("} ") else { continue };
        let Ok(number) = number.trim().parse::<f64>() else { continue };
        let label = |name| label(labels, name).unwrap_or_default();
        let (verb, resource, subresource) = (label("verb"), label("resource"), label("subresource"));
        let what = match (resource, subresource) {
            ("", _) => verb.to_owned(),
            (resource, "") => format!("{verb} {resource}"),
            (resource, subresource) => format!("{verb} {resource}/{subresource}"),
        };
        *totals.entry(what).or_default() += number as u64;
    }
    totals
}

/// The value of a label. Labels of this metric hold nothing that would have to be escaped.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// What came in between, without what is about leases and without `own`, which whoever measures has sent.
pub fn between(before: &Requests, after: &Requests, own: &Requests) -> Requests {
    let count = |of: &Requests, what: &str| of.get(what).copied().unwrap_or(0);
    let more = after.iter().filter(|(what, _)| !what.ends_with(" leases")).map(|(what, number)| {
        let more = number.saturating_sub(count(before, what));
        (what.clone(), more.saturating_sub(count(own, what)))
    });
    more.filter(|(_, more)| *more > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(listed: &[(&str, u64)]) -> Requests {
        listed.iter().map(|(what, number)| ((*what).to_owned(), *number)).collect()
    }

    #[test]
    fn requests_are_summed_over_the_labels_that_say_nothing_of_what_they_were() {
        let page = r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="status",verb="PATCH",version="v1"} 40
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="nodes",scope="resource",subresource="status",verb="PATCH",version="v1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="",subresource="",verb="LIST",version="v1"} 1.5e+06
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/metrics",verb="GET",version=""} 3
apiserver_request_duration_seconds_count{resource="pods",verb="LIST"} 9
"#;
        assert_eq!(totals(page), requests(&[("PATCH nodes/status", 42), ("LIST pods", 1_500_000), ("GET", 3)]));
    }

    #[test]
    fn leases_and_the_measurers_own_requests_do_not_count() {
        let before = requests(&[("PUT leases", 100), ("PATCH nodes/status", 10), ("LIST pods", 3)]);
        let after = requests(&[("PUT leases", 700), ("PATCH nodes/status", 30), ("LIST pods", 3), ("GET", 1), ("WATCH pods", 2)]);
        let own = requests(&[("PATCH nodes/status", 19), ("GET", 1)]);
        assert_eq!(between(&before, &after, &own), requests(&[("PATCH nodes/status", 1), ("WATCH pods", 2)]));
    }
}

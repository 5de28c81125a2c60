//! Hints: which zones and nodes an endpoint is best used from, as `trafficDistribution` asks. Pure.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use super::slicing::{Plan, untouched};

/// How traffic is to be spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Anywhere: endpoints have no hints.
    Everywhere,
    SameZone,
    SameNode,
}

impl Distribution {
    pub fn parse(text: Option<&str>) -> Distribution {
        match text {
            Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            _ => Distribution::Everywhere,
        }
    }

    /// What the endpoint's hints should be.
    fn hints(self, endpoint: &Endpoint) -> Option<EndpointHints> {
        let node = (self == Distribution::SameNode).then_some(endpoint.node_name.as_ref()).flatten();
        let hints = EndpointHints {
            for_zones: endpoint.zone.as_ref().map(|zone| vec![ForZone { name: zone.clone() }]),
            for_nodes: node.map(|node| vec![ForNode { name: node.clone() }]),
        };
        (self != Distribution::Everywhere && hints != EndpointHints::default()).then_some(hints)
    }

    /// Endpoints that are not ready keep what they have, for nobody is sent there.
    fn concerns(self, endpoint: &Endpoint) -> bool {
        self == Distribution::Everywhere || endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
    }

    fn apply(self, slice: &mut EndpointSlice) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            if self.concerns(endpoint) {
                endpoint.hints = self.hints(endpoint);
            }
        }
    }

    fn is_applied(self, slice: &EndpointSlice) -> bool {
        slice
            .endpoints
            .iter()
            .flatten()
            .all(|endpoint| !self.concerns(endpoint) || is_equal(endpoint.hints.as_ref(), self.hints(endpoint).as_ref()))
    }
}

/// No hints, no lists and empty lists are one.
fn is_equal(a: Option<&EndpointHints>, b: Option<&EndpointHints>) -> bool {
    let parts = |hints: Option<&EndpointHints>| {
        let zones: Vec<String> = hints.iter().flat_map(|h| h.for_zones.iter().flatten()).map(|zone| zone.name.clone()).collect();
        let nodes: Vec<String> = hints.iter().flat_map(|h| h.for_nodes.iter().flatten()).map(|node| node.name.clone()).collect();
        (zones, nodes)
    };
    parts(a) == parts(b)
}

/// Puts hints into what is to be written, and adds slices to the plan whose hints are wrong.
pub fn add(distribution: Distribution, existing: &[EndpointSlice], plan: &mut Plan) {
    let outdated: Vec<EndpointSlice> =
        untouched(existing, plan).into_iter().filter(|slice| !distribution.is_applied(slice)).cloned().collect();
    plan.update.extend(outdated);
    plan.create.iter_mut().chain(&mut plan.update).for_each(|slice| distribution.apply(slice));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    use super::*;

    fn slice(ready: bool) -> EndpointSlice {
        let endpoint = Endpoint {
            zone: Some("z".to_owned()),
            node_name: Some("n".to_owned()),
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            ..Endpoint::default()
        };
        let mut slice = EndpointSlice { endpoints: Some(vec![endpoint]), ..EndpointSlice::default() };
        slice.metadata.name = Some("s".to_owned());
        slice
    }

    fn hinted(distribution: &str, existing: EndpointSlice) -> Option<(Option<String>, Option<String>)> {
        let mut plan = Plan::default();
        add(Distribution::parse(Some(distribution)), &[existing], &mut plan);
        let endpoint = plan.update.pop()?.endpoints?.pop()?;
        let hints = endpoint.hints.unwrap_or_default();
        Some((hints.for_zones.map(|z| z[0].name.clone()), hints.for_nodes.map(|n| n[0].name.clone())))
    }

    #[test]
    fn slices_are_hinted_as_the_service_asks() {
        let (zone, node) = (Some("z".to_owned()), Some("n".to_owned()));
        assert_eq!(hinted("PreferClose", slice(true)), Some((zone.clone(), None)));
        assert_eq!(hinted("PreferSameZone", slice(true)), Some((zone.clone(), None)));
        assert_eq!(hinted("PreferSameNode", slice(true)), Some((zone, node)));
        assert_eq!(hinted("", slice(true)), None);
        assert_eq!(hinted("PreferSameZone", slice(false)), None);
    }

    #[test]
    fn hints_that_nobody_asks_for_any_more_are_taken_off() {
        let mut old = slice(true);
        Distribution::SameNode.apply(&mut old);
        assert_eq!(hinted("PreferSameNode", old.clone()), None);
        assert_eq!(hinted("", old), Some((None, None)));
    }
}

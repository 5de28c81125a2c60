//! What is wrong with a configuration, in upstream's words (`apis/config/validation`, v1.37).

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::{Operator, Requirement};
use apimachinery::time::{format_duration, parse_duration};
use apimachinery::validation::{is_qualified_name, validate_label_name};
use k8s_openapi::api::core::v1::{NodeSelectorTerm, TopologySpreadConstraint};
use serde_json::{Value, json};

use super::{
    Args, Config, Defaulting, Extender, LeaderElection, PluginConfig, PluginName, PluginSet, Profile, ResourceSpec, ShapePoint,
    StrategyType,
};

/// Plugins that were and are no more.
const GONE: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// All that is wrong, but for arguments that cannot be read.
pub(super) fn check(config: &Config) -> ErrorList {
    let root = |name| Path::new(name);
    let mut errors = ErrorList::new();
    let burst = config.client_connection.burst;
    if burst < 0 {
        errors.push(Error::invalid(&root("clientConnection").child("burst"), burst, "must be non-negative"));
    }
    errors.extend(leader_election(&config.leader_election, &root("leaderElection")));
    if config.parallelism <= 0 {
        errors.push(Error::invalid(&root("parallelism"), config.parallelism, "should be an integer value greater than zero"));
    }
    let profiles = root("profiles");
    for (i, profile) in config.profiles.iter().enumerate() {
        let path = profiles.index(i);
        let name = profile.scheduler_name.as_deref().unwrap_or("");
        if name.is_empty() {
            errors.push(Error::required(&path.child("schedulerName"), ""));
        }
        errors.extend(percentage(profile.percentage_of_nodes_to_score.unwrap_or(0), &path.child("percentageOfNodesToScore")));
        errors.extend(plugins(profile, &path));
        if config.profiles[..i].iter().any(|other| other.scheduler_name.as_deref() == Some(name)) {
            // Upstream shows the field that has the name already, which it cannot print.
            errors.push(Error::duplicate(&path.child("schedulerName"), json!({})));
        }
    }
    errors.extend(queue_sort(&config.profiles, &profiles));
    errors.extend(percentage(config.percentage_of_nodes_to_score, &root("percentageOfNodesToScore")));
    let (initial, max) = (config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds);
    if initial <= 0 {
        errors.push(Error::invalid(&root("podInitialBackoffSeconds"), initial, "must be greater than 0"));
    }
    if max < initial {
        errors.push(Error::invalid(&root("podMaxBackoffSeconds"), max, "must be greater than or equal to PodInitialBackoffSeconds"));
    }
    errors.extend(extenders(&config.extenders, &root("extenders")));
    errors
}

fn leader_election(election: &LeaderElection, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if !election.leader_elect {
        return errors;
    }
    let times = [
        ("leaseDuration", election.lease_duration.as_str()),
        ("renewDeadline", election.renew_deadline.as_str()),
        ("retryPeriod", election.retry_period.as_str()),
    ];
    let mut read = Vec::new();
    for (name, text) in times {
        match parse_duration(text) {
            Ok(time) => {
                read.push(time);
                if time <= 0 {
                    errors.push(Error::invalid(&path.child(name), format_duration(time), "must be greater than zero"));
                }
            }
            Err(error) => errors.push(Error::invalid(&path.child(name), text, error.to_string())),
        }
    }
    if let [lease, renew, _] = read[..]
        && lease <= renew
    {
        // The value is the other one's, as upstream has it.
        let detail = "must be greater than `RenewDeadline`";
        errors.push(Error::invalid(&path.child("leaseDuration"), format_duration(renew), detail));
    }
    for (name, text) in [
        ("resourceLock", &election.resource_lock),
        ("resourceNamespace", &election.resource_namespace),
        ("resourceName", &election.resource_name),
    ] {
        if text.is_empty() {
            errors.push(Error::required(&path.child(name), ""));
        }
    }
    if election.resource_lock != "leases" {
        let detail = "resourceLock value must be \"leases\"";
        errors.push(Error::invalid(&path.child("resourceLock"), election.resource_lock.as_str(), detail));
    }
    errors
}

/// All profiles share one queue.
fn queue_sort(profiles: &[Profile], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let of = |profile: &Profile| profile.plugins.as_ref().map(|plugins| plugins.queue_sort.clone()).unwrap_or_default();
    let Some(first) = profiles.first().map(of) else { return errors };
    if first.enabled.len() > 1 {
        let path = path.index(0);
        let (plugins, detail) = (path.child("plugins"), "only one queue sort plugin can be enabled");
        let sort = plugins.child("queueSort");
        errors.push(Error::invalid(&sort.child("Enabled"), first.enabled.len(), detail));
    }
    for (i, profile) in profiles.iter().enumerate().skip(1) {
        let own = of(profile);
        if told(&own) != told(&first) {
            let path = path.index(i);
            let plugins = path.child("plugins");
            errors.push(Error::invalid(&plugins.child("queueSort"), told(&own), "must be the same for all profiles"));
        }
    }
    errors
}

/// A set of plugins as messages show it.
fn told(set: &PluginSet) -> Value {
    let list = |plugins: &[PluginName]| match plugins {
        [] => Value::Null,
        all => all.iter().map(|plugin| json!({"Name": plugin.name, "Weight": plugin.weight.unwrap_or(0)})).collect(),
    };
    json!({"Enabled": list(&set.enabled), "Disabled": list(&set.disabled)})
}

fn percentage(value: i32, path: &Path<'_>) -> Option<Error> {
    (!(0..=100).contains(&value)).then(|| Error::invalid(path, value, "not in valid range [0-100]"))
}

fn gone(name: &str, path: &Path<'_>) -> Option<Error> {
    let version = super::API_VERSION;
    let detail = || format!("was invalid in version {version:?} (KubeSchedulerConfiguration is version {version:?})");
    GONE.contains(&name).then(|| Error::invalid(path, name, detail()))
}

fn plugins(profile: &Profile, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, config) in profile.plugin_config.iter().enumerate() {
        let configs = path.child("pluginConfig");
        let path = configs.index(i);
        if profile.plugin_config[..i].iter().any(|other| other.name == config.name) {
            errors.push(Error::duplicate(&path, config.name.as_str()));
        }
        errors.extend(gone(&config.name, &path));
        errors.extend(arguments(config, &path.child("args")));
    }
    let Some(plugins) = &profile.plugins else { return errors };
    let points = [
        ("preEnqueue", &plugins.pre_enqueue),
        ("queueSort", &plugins.queue_sort),
        ("preFilter", &plugins.pre_filter),
        ("filter", &plugins.filter),
        ("postFilter", &plugins.post_filter),
        ("preScore", &plugins.pre_score),
        ("score", &plugins.score),
        ("reserve", &plugins.reserve),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("bind", &plugins.bind),
        ("postBind", &plugins.post_bind),
        ("podGroupPostFilter", &plugins.pod_group_post_filter),
    ];
    let of_profile = path.child("plugins");
    for (point, set) in points {
        let of_point = of_profile.child(point);
        let enabled = of_point.child("enabled");
        errors.extend(set.enabled.iter().enumerate().filter_map(|(i, plugin)| gone(&plugin.name, &enabled.index(i))));
    }
    errors
}

/// What is wrong with the arguments of one plugin. Those of NodeResourcesFit are not checked by v1.37, which looks for them under
/// another name; what cannot be worked with is refused all the same.
fn arguments(config: &PluginConfig, path: &Path<'_>) -> ErrorList {
    let Ok(args) = Args::read(std::slice::from_ref(config)) else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    match config.name.as_str() {
        "DefaultPreemption" => {
            let (share, least) = (args.preemption.min_candidate_nodes_percentage, args.preemption.min_candidate_nodes_absolute);
            let (share_path, least_path) = (path.child("minCandidateNodesPercentage"), path.child("minCandidateNodesAbsolute"));
            if !(0..=100).contains(&share) {
                errors.push(Error::invalid(&share_path, share, "not in valid range [0, 100]"));
            }
            if least < 0 {
                errors.push(Error::invalid(&least_path, least, "not in valid range [0, inf)"));
            }
            if share == 0 && least == 0 {
                errors.push(Error::invalid(&share_path, 0, "cannot be zero at the same time as minCandidateNodesAbsolute"));
                errors.push(Error::invalid(&least_path, 0, "cannot be zero at the same time as minCandidateNodesPercentage"));
            }
        }
        "InterPodAffinity" => {
            let weight = args.inter_pod_affinity.hard_pod_affinity_weight;
            if !(0..=100).contains(&weight) {
                errors.push(Error::invalid(&path.child("hardPodAffinityWeight"), weight, "not in valid range [0, 100]"));
            }
        }
        "NodeResourcesBalancedAllocation" => {
            let resources = path.child("resources");
            for (i, resource) in args.balanced.resources.iter().enumerate() {
                let path = resources.index(i);
                if args.balanced.resources[..i].iter().any(|other| other.name == resource.name) {
                    errors.push(Error::duplicate(&path.child("name"), resource.name.as_str()));
                }
                if resource.weight != 1 {
                    errors.push(Error::invalid(&path.child("weight"), resource.weight, "must be 1"));
                }
            }
        }
        "NodeAffinity" => {
            let (of_affinity, added) = (path.child("addedAffinity"), args.node_affinity.added_affinity.unwrap_or_default());
            let required = of_affinity.child("requiredDuringSchedulingIgnoredDuringExecution");
            let (terms_path, preferred) =
                (required.child("nodeSelectorTerms"), of_affinity.child("preferredDuringSchedulingIgnoredDuringExecution"));
            let terms = added.required_during_scheduling_ignored_during_execution.iter().flat_map(|selector| &selector.node_selector_terms);
            errors.extend(terms.enumerate().flat_map(|(i, term)| selector_term(term, &terms_path.index(i))));
            let terms = added.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate();
            let weighed = terms.filter(|(_, term)| term.weight != 0);
            errors.extend(weighed.flat_map(|(i, term)| selector_term(&term.preference, &preferred.index(i))));
        }
        "NodeResourcesFit" => {
            let (ignored, groups) = (path.child("ignoredResources"), path.child("ignoredResourceGroups"));
            for (i, resource) in args.fit.ignored_resources.iter().enumerate() {
                errors.extend(validate_label_name(resource, &ignored.index(i)));
            }
            for (i, group) in args.fit.ignored_resource_groups.iter().enumerate() {
                let path = groups.index(i);
                if group.contains('/') {
                    errors.push(Error::invalid(&path, group.as_str(), "resource group name can't contain '/'"));
                }
                errors.extend(validate_label_name(group, &path));
            }
            let strategy = path.child("scoringStrategy");
            errors.extend(weights(&args.fit.scoring_strategy.resources, &strategy.child("resources")));
            if args.fit.scoring_strategy.kind == StrategyType::RequestedToCapacityRatio {
                let ratio = strategy.child("requestedToCapacityRatio");
                match &args.fit.scoring_strategy.requested_to_capacity_ratio {
                    None => errors.push(Error::required(&ratio, "must be specified when type is RequestedToCapacityRatio")),
                    Some(param) => errors.extend(shape(&param.shape, &ratio.child("shape"))),
                }
            } else if args.fit.scoring_strategy.requested_to_capacity_ratio.is_some() {
                let ratio = strategy.child("requestedToCapacityRatio");
                errors.push(Error::forbidden(&ratio, "must be nil when type is not RequestedToCapacityRatio"));
            }
        }
        "PodTopologySpread" => errors.extend(spread(args.spread.defaulting_type, &args.spread.default_constraints, path)),
        "VolumeBinding" => {
            let timeout = args.volume_binding.bind_timeout_seconds;
            if timeout < 0 {
                let detail = "invalid BindTimeoutSeconds, should not be a negative value";
                errors.push(Error::invalid(&path.child("bindTimeoutSeconds"), timeout, detail));
            }
            errors.extend(shape(&args.volume_binding.shape, &path.child("shape")));
        }
        "DynamicResources" => {
            let (filter, binding) = (args.dynamic_resources.filter_timeout.0, args.dynamic_resources.binding_timeout.0);
            if filter < 0 {
                errors.push(Error::invalid(&path.child("filterTimeout"), format_duration(filter), "must be zero or positive"));
            }
            if binding < 1_000_000_000 {
                errors.push(Error::invalid(&path.child("bindingTimeout"), format_duration(binding), "must be at least 1 second"));
            }
        }
        _ => {}
    }
    errors
}

/// What is wrong with a term of a node selector. One without any requirements selects nothing, and is not looked at.
fn selector_term(term: &NodeSelectorTerm, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let of_labels = path.child("matchExpressions");
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = of_labels.index(i);
        let known = [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
            ("Gt", Operator::GreaterThan),
            ("Lt", Operator::LessThan),
        ];
        let Some((_, operator)) = known.iter().find(|(name, _)| *name == requirement.operator) else {
            errors.push(Error::not_supported(&path.child("operator"), requirement.operator.as_str(), &known.map(|(name, _)| name)));
            continue;
        };
        let values = requirement.values.clone().unwrap_or_default();
        if let Err(wrong) = Requirement::new(requirement.key.clone(), *operator, values) {
            errors.extend(wrong.into_iter().map(|error| Error { field: format!("{path}.{}", error.field), ..error }));
        }
    }
    let of_fields = path.child("matchFields");
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = of_fields.index(i);
        let (known, values) = (["In", "NotIn"], requirement.values.as_deref().unwrap_or_default());
        if !known.contains(&requirement.operator.as_str()) {
            errors.push(Error::not_supported(&path.child("operator"), requirement.operator.as_str(), &known));
        } else if values.len() != 1 {
            errors.push(Error::invalid(&path.child("values"), json!(values), "must have one element"));
        }
    }
    errors
}

fn weights(resources: &[ResourceSpec], path: &Path<'_>) -> ErrorList {
    let all = resources.iter().enumerate().filter(|(_, resource)| !(1..=100).contains(&resource.weight));
    let told = |(i, resource): (usize, &ResourceSpec)| {
        let detail = format!("resource weight of {} not in valid range (0, 100]", resource.name);
        Error::invalid(&path.index(i).child("weight"), resource.weight, detail)
    };
    all.map(told).collect()
}

fn shape(shape: &[ShapePoint], path: &Path<'_>) -> ErrorList {
    if shape.is_empty() {
        return vec![Error::required(path, "at least one point must be specified")];
    }
    let mut errors = ErrorList::new();
    if let Some(i) = (1..shape.len()).find(|i| shape[i - 1].utilization >= shape[*i].utilization) {
        let path = path.index(i);
        errors.push(Error::invalid(&path.child("utilization"), shape[i].utilization, "values must be sorted in increasing order"));
    }
    for (i, point) in shape.iter().enumerate() {
        let path = path.index(i);
        if !(0..=100).contains(&point.utilization) {
            errors.push(Error::invalid(&path.child("utilization"), point.utilization, "not in valid range [0, 100]"));
        }
        if !(0..=10).contains(&point.score) {
            errors.push(Error::invalid(&path.child("score"), point.score, "not in valid range [0, 10]"));
        }
    }
    errors
}

fn spread(defaulting: Defaulting, constraints: &[TopologySpreadConstraint], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if defaulting == Defaulting::System && !constraints.is_empty() {
        errors.push(Error::invalid(&path.child("defaultingType"), "System", "when .defaultConstraints are not empty"));
    }
    let all = path.child("defaultConstraints");
    for (i, constraint) in constraints.iter().enumerate() {
        let path = all.index(i);
        if constraint.max_skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), constraint.max_skew, "not in valid range (0, inf)"));
        }
        if constraint.topology_key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        } else {
            errors.extend(validate_label_name(&constraint.topology_key, &path.child("topologyKey")));
        }
        let (when, known) = (constraint.when_unsatisfiable.as_str(), ["DoNotSchedule", "ScheduleAnyway"]);
        if when.is_empty() {
            errors.push(Error::required(&path.child("whenUnsatisfiable"), "can not be empty"));
        } else if !known.contains(&when) {
            errors.push(Error::not_supported(&path.child("whenUnsatisfiable"), when, &known));
        }
        if constraint.label_selector.is_some() {
            let detail = "constraint must not define a selector, as they deduced for each pod";
            errors.push(Error::forbidden(&path.child("labelSelector"), detail));
        }
        let same = |other: &TopologySpreadConstraint| other.topology_key == constraint.topology_key && other.when_unsatisfiable == when;
        if constraints[..i].iter().any(same) {
            errors.push(Error::duplicate(&path, format!("{{{}, {when}}}", constraint.topology_key)));
        }
    }
    errors
}

/// Whether the name is that of a resource that is not Kubernetes' own.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && is_qualified_name(&format!("requests.{name}")).is_empty()
}

fn extenders(extenders: &[Extender], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut managed: Vec<&str> = Vec::new();
    for (i, extender) in extenders.iter().enumerate() {
        let path = path.index(i);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errors.push(Error::invalid(&path.child("weight"), extender.weight, "must have a positive weight applied to it"));
        }
        let resources = path.child("managedResources");
        for (j, resource) in extender.managed_resources.iter().enumerate() {
            let (of_resource, name) = (resources.index(j), resource.name.as_str());
            let path = of_resource.child("name");
            let unqualified = is_qualified_name(name);
            if unqualified.is_empty() && !is_extended_resource(name) {
                errors.push(Error::invalid(&path, name, "is an invalid extended resource name"));
            }
            errors.extend(unqualified.into_iter().map(|detail| Error::invalid(&path, name, detail)));
            if managed.contains(&name) {
                errors.push(Error::invalid(&path, name, "duplicate extender managed resource name"));
            }
            managed.push(name);
        }
    }
    let binders = extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let value = format!("found {binders} extenders implementing bind");
        errors.push(Error::invalid(path, value, "only one extender can implement bind"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::config;

    #[test]
    fn what_cannot_be_is_refused() {
        let args = |name: &str, args: Value| json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]});
        let added = |affinity: Value| args("NodeAffinity", json!({"addedAffinity": affinity}));
        let spread = |constraint: Value| args("PodTopologySpread", json!({"defaultingType": "List", "defaultConstraints": [constraint]}));
        for (value, expected) in [
            (json!({"percentageOfNodesToScore": 101}), "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
            (
                json!({"profiles": [{"percentageOfNodesToScore": -1}]}),
                "profiles[0].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]",
            ),
            (
                json!({"podMaxBackoffSeconds": 0}),
                "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds",
            ),
            (json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}), "profiles[1].schedulerName: Duplicate value: {}"),
            (json!({"profiles": [{"schedulerName": "a"}, {}]}), "profiles[1].schedulerName: Required value"),
            (
                json!({"leaderElection": {"resourceLock": "endpoints"}}),
                "leaderElection.resourceLock: Invalid value: \"endpoints\": resourceLock value must be \"leases\"",
            ),
            (
                json!({"parallelism": 0, "podInitialBackoffSeconds": 0}),
                "[parallelism: Invalid value: 0: should be an integer value greater than zero, podInitialBackoffSeconds: Invalid value: 0: must be greater than 0]",
            ),
            (
                json!({"extenders": [{"urlPrefix": "http://x", "prioritizeVerb": "p"}]}),
                "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
            ),
            (
                json!({"extenders": [{"bindVerb": "b"}, {"bindVerb": "b"}]}),
                "extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
            ),
            (
                json!({"extenders": [{"managedResources": [{"name": "cpu"}]}]}),
                "extenders[0].managedResources[0].name: Invalid value: \"cpu\": is an invalid extended resource name",
            ),
            (
                json!({"extenders": [{"managedResources": [{"name": "a.com/x"}]}, {"managedResources": [{"name": "a.com/x"}]}]}),
                "extenders[1].managedResources[0].name: Invalid value: \"a.com/x\": duplicate extender managed resource name",
            ),
            (json!({"clientConnection": {"burst": -1}}), "clientConnection.burst: Invalid value: -1: must be non-negative"),
            (
                json!({"leaderElection": {"leaseDuration": "10s", "renewDeadline": "10s", "retryPeriod": "-1s", "resourceName": ""}}),
                "[leaderElection.retryPeriod: Invalid value: \"-1s\": must be greater than zero, \
                 leaderElection.leaseDuration: Invalid value: \"10s\": must be greater than `RenewDeadline`, \
                 leaderElection.resourceName: Required value]",
            ),
            (
                json!({"leaderElection": {"resourceLock": "", "resourceNamespace": ""}}),
                "[leaderElection.resourceLock: Required value, leaderElection.resourceNamespace: Required value, \
                 leaderElection.resourceLock: Invalid value: \"\": resourceLock value must be \"leases\"]",
            ),
            (
                json!({"profiles": [{"plugins": {"queueSort": {"enabled": [{"name": "A"}, {"name": "B"}]}}}]}),
                "profiles[0].plugins.queueSort.Enabled: Invalid value: 2: only one queue sort plugin can be enabled",
            ),
            (
                json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "b", "plugins": {"queueSort": {"enabled": [{"name": "A"}]}}}]}),
                "profiles[1].plugins.queueSort: Invalid value: {\"Enabled\":[{\"Name\":\"A\",\"Weight\":0}],\"Disabled\":null}: must be the same for all profiles",
            ),
            (
                added(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}, {"matchExpressions": [
                    {"key": "foo", "operator": "In"}, {"key": "foo bar", "operator": "Near"}], "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]}})),
                "[profiles[0].pluginConfig[0].args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[0].values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty, \
                 profiles[0].pluginConfig[0].args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[1].operator: Unsupported value: \"Near\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", \"Gt\", \"Lt\", \
                 profiles[0].pluginConfig[0].args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchFields[0].values: Invalid value: [\"a\",\"b\"]: must have one element]",
            ),
            (
                added(json!({"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 0, "preference": {"matchFields": [{"key": "foo", "operator": "Exists"}]}},
                    {"weight": 1, "preference": {"matchFields": [{"key": "foo", "operator": "Exists"}]}}]})),
                "profiles[0].pluginConfig[0].args.addedAffinity.preferredDuringSchedulingIgnoredDuringExecution[1].matchFields[0].operator: Unsupported value: \"Exists\": supported values: \"In\", \"NotIn\"",
            ),
            (
                args("NodeResourcesFit", json!({"ignoredResources": ["a b"], "ignoredResourceGroups": ["a.com/x"]})),
                "[profiles[0].pluginConfig[0].args.ignoredResources[0]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), \
                 profiles[0].pluginConfig[0].args.ignoredResourceGroups[0]: Invalid value: \"a.com/x\": resource group name can't contain '/']",
            ),
            (
                args("NodeResourcesFit", json!({"scoringStrategy": {"requestedToCapacityRatio": {"shape": []}}})),
                "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio: Forbidden: must be nil when type is not RequestedToCapacityRatio",
            ),
            (
                args(
                    "NodeResourcesFit",
                    json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 101}]}}),
                ),
                "[profiles[0].pluginConfig[0].args.scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid range (0, 100], \
                 profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio]",
            ),
            (
                args(
                    "NodeResourcesFit",
                    json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": []}}}),
                ),
                "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape: Required value: at least one point must be specified",
            ),
            (
                args(
                    "NodeResourcesFit",
                    json!({"scoringStrategy": {"type": "RequestedToCapacityRatio",
                    "requestedToCapacityRatio": {"shape": [{"utilization": -1, "score": -1}, {"utilization": 101, "score": 11}]}}}),
                ),
                "[profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[0].utilization: Invalid value: -1: not in valid range [0, 100], \
                 profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[0].score: Invalid value: -1: not in valid range [0, 10], \
                 profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 101: not in valid range [0, 100], \
                 profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio.shape[1].score: Invalid value: 11: not in valid range [0, 10]]",
            ),
            (
                args("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 1}, {"name": "cpu", "weight": 1}]})),
                "profiles[0].pluginConfig[0].args.resources[1].name: Duplicate value: \"cpu\"",
            ),
            (
                args("VolumeBinding", json!({"bindTimeoutSeconds": -10})),
                "profiles[0].pluginConfig[0].args.bindTimeoutSeconds: Invalid value: -10: invalid BindTimeoutSeconds, should not be a negative value",
            ),
            (
                args("DynamicResources", json!({"filterTimeout": "-1s"})),
                "profiles[0].pluginConfig[0].args.filterTimeout: Invalid value: \"-1s\": must be zero or positive",
            ),
            (
                args("DefaultPreemption", json!({"minCandidateNodesPercentage": 101})),
                "profiles[0].pluginConfig[0].args.minCandidateNodesPercentage: Invalid value: 101: not in valid range [0, 100]",
            ),
            (
                args(
                    "PodTopologySpread",
                    json!({"defaultConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
                ),
                "profiles[0].pluginConfig[0].args.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
            ),
            (
                spread(json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "", "labelSelector": {"matchLabels": {"a": "b"}}})),
                "[profiles[0].pluginConfig[0].args.defaultConstraints[0].whenUnsatisfiable: Required value: can not be empty, \
                 profiles[0].pluginConfig[0].args.defaultConstraints[0].labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod]",
            ),
            (
                args(
                    "PodTopologySpread",
                    json!({"defaultingType": "List", "defaultConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
                    {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
                ),
                "profiles[0].pluginConfig[0].args.defaultConstraints[1]: Duplicate value: \"{zone, DoNotSchedule}\"",
            ),
            (
                args("DefaultPreemption", json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": -1})),
                "profiles[0].pluginConfig[0].args.minCandidateNodesAbsolute: Invalid value: -1: not in valid range [0, inf)",
            ),
            (
                args("DefaultPreemption", json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0})),
                "[profiles[0].pluginConfig[0].args.minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as minCandidateNodesAbsolute, \
                 profiles[0].pluginConfig[0].args.minCandidateNodesAbsolute: Invalid value: 0: cannot be zero at the same time as minCandidateNodesPercentage]",
            ),
            (
                args("InterPodAffinity", json!({"hardPodAffinityWeight": 101})),
                "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
            ),
            (
                args("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]})),
                "profiles[0].pluginConfig[0].args.resources[0].weight: Invalid value: 2: must be 1",
            ),
            (
                args("VolumeBinding", json!({"shape": [{"utilization": 5, "score": 1}, {"utilization": 5, "score": 11}]})),
                "[profiles[0].pluginConfig[0].args.shape[1].utilization: Invalid value: 5: values must be sorted in increasing order, \
                 profiles[0].pluginConfig[0].args.shape[1].score: Invalid value: 11: not in valid range [0, 10]]",
            ),
            (
                args("DynamicResources", json!({"bindingTimeout": "500ms"})),
                "profiles[0].pluginConfig[0].args.bindingTimeout: Invalid value: \"500ms\": must be at least 1 second",
            ),
            (
                spread(json!({"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"})),
                "profiles[0].pluginConfig[0].args.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)",
            ),
            (
                spread(json!({"maxSkew": 1, "topologyKey": "", "whenUnsatisfiable": "Never"})),
                "[profiles[0].pluginConfig[0].args.defaultConstraints[0].topologyKey: Required value: can not be empty, \
                 profiles[0].pluginConfig[0].args.defaultConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"]",
            ),
            (
                json!({"profiles": [{"pluginConfig": [{"name": "NodeAffinity"}, {"name": "NodeAffinity"}]}]}),
                "profiles[0].pluginConfig[1]: Duplicate value: \"NodeAffinity\"",
            ),
            (
                json!({"profiles": [{"plugins": {"filter": {"enabled": [{"name": "EBSLimits"}]}}}]}),
                "profiles[0].plugins.filter.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \"kubescheduler.config.k8s.io/v1\" (KubeSchedulerConfiguration is version \"kubescheduler.config.k8s.io/v1\")",
            ),
        ] {
            assert_eq!(config(value.clone()).unwrap_err(), expected, "{value}");
        }
    }
}

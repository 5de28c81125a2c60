//! The plugins of a profile at each extension point, in order: the defaults, and what the configuration changes of them.
//!
//! Specified by upstream's `apis/config/v1/default_plugins.go` and `framework/runtime` (`expandMultiPointPlugins`), v1.37.

use crate::config::{Args, Config, Error, PluginName, PluginSet as Names, Plugins};
use crate::extender;
use crate::framework::{PluginId, PluginSet, Point};
use crate::node_selector;
use crate::plugins::{ALL, by_name};

/// What runs by default, with the weights of scores.
const DEFAULT: [(&str, Option<i32>); 20] = [
    ("SchedulingGates", None),
    ("PrioritySort", None),
    ("NodeName", None),
    ("NodeUnschedulable", None),
    ("TaintToleration", Some(3)),
    ("NodeAffinity", Some(2)),
    ("NodePorts", None),
    ("NodeResourcesFit", Some(1)),
    ("VolumeRestrictions", None),
    ("NodeVolumeLimits", None),
    ("VolumeBinding", None),
    ("VolumeZone", None),
    ("PodTopologySpread", Some(2)),
    ("InterPodAffinity", Some(2)),
    ("DynamicResources", Some(2)),
    ("DefaultPreemption", None),
    ("NodeResourcesBalancedAllocation", Some(1)),
    ("ImageLocality", Some(1)),
    ("DefaultBinder", None),
    ("NodeDeclaredFeatures", None),
];

/// Plugins that upstream knows and that are left out here when a configuration names them: see the crate's documentation.
const UNSUPPORTED: [&str; 4] = ["GangScheduling", "DeferredPodScheduling", "TopologyPlacementGenerator", "PodGroupPodsCount"];

/// A profile, ready to run.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pre_enqueue: Vec<PluginId>,
    pub pre_filter: Vec<PluginId>,
    pub filter: Vec<PluginId>,
    pub post_filter: Vec<PluginId>,
    pub pre_score: Vec<PluginId>,
    pub score: Vec<(PluginId, i64)>,
    pub reserve: Vec<PluginId>,
    pub pre_bind: Vec<PluginId>,
    /// Everything that runs anywhere.
    pub enabled: PluginSet,
    pub args: Args,
    /// The node affinity that the profile adds to every pod's.
    pub added_required: Option<node_selector::Terms>,
    pub added_preferred: Vec<(node_selector::Term, i64)>,
}

impl Profile {
    /// The profiles of a configuration that is complete.
    pub fn all(config: &Config) -> Result<Vec<Profile>, Error> {
        let ignored = extender::ignored_resources(config);
        let mut profiles: Vec<Profile> = config.profiles.iter().map(Profile::new).collect::<Result<_, _>>()?;
        for profile in profiles.iter_mut().filter(|_| !ignored.is_empty()) {
            profile.args.fit.ignored_resources.clone_from(&ignored);
        }
        Ok(profiles)
    }

    pub fn new(profile: &crate::config::Profile) -> Result<Profile, Error> {
        let name = profile.scheduler_name.clone().unwrap_or_default();
        let custom = profile.plugins.clone().unwrap_or_default();
        let multi = merge(&custom.multi_point);
        let args = Args::read(&profile.plugin_config)?;
        let at = |point| expand(point, &multi, names(&custom, point));
        let ids = |point| -> Result<Vec<PluginId>, Error> { Ok(at(point)?.into_iter().map(|(id, _)| id).collect()) };
        let score = at(Point::Score)?;
        let (sort, bind) = (ids(Point::QueueSort)?, ids(Point::Bind)?);
        if sort.len() != 1 {
            return Err(Error::QueueSort { profile: name, found: sort.len() });
        }
        if bind.is_empty() {
            return Err(Error::NoBinder(name));
        }
        let added = args.node_affinity.added_affinity.as_ref();
        let required = added.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let added_as_pod =
            added.map(|added| k8s_openapi::api::core::v1::Affinity { node_affinity: Some(added.clone()), ..Default::default() });
        let mut made = Profile {
            name,
            percentage_of_nodes_to_score: profile.percentage_of_nodes_to_score,
            pre_enqueue: ids(Point::PreEnqueue)?,
            pre_filter: ids(Point::PreFilter)?,
            filter: ids(Point::Filter)?,
            post_filter: ids(Point::PostFilter)?,
            pre_score: ids(Point::PreScore)?,
            score,
            reserve: ids(Point::Reserve)?,
            pre_bind: ids(Point::PreBind)?,
            enabled: PluginSet::EMPTY,
            added_required: required.map(node_selector::Terms::new),
            added_preferred: node_selector::preferred(added_as_pod.as_ref()),
            args,
        };
        let lists = [&made.pre_enqueue, &made.pre_filter, &made.filter, &made.post_filter, &made.reserve, &made.pre_bind, &sort, &bind];
        let mut enabled = PluginSet::EMPTY;
        lists.into_iter().flatten().for_each(|id| enabled.insert(*id));
        made.score.iter().for_each(|(id, _)| enabled.insert(*id));
        made.enabled = enabled;
        Ok(made)
    }

    /// The default profile.
    pub fn standard() -> Profile {
        let config = Config::default();
        Profile::new(&config.profiles[0]).expect("the defaults are valid")
    }
}

fn names(plugins: &Plugins, point: Point) -> &Names {
    match point {
        Point::PreEnqueue => &plugins.pre_enqueue,
        Point::QueueSort => &plugins.queue_sort,
        Point::PreFilter => &plugins.pre_filter,
        Point::Filter => &plugins.filter,
        Point::PostFilter => &plugins.post_filter,
        Point::PreScore => &plugins.pre_score,
        Point::Score => &plugins.score,
        Point::Reserve => &plugins.reserve,
        Point::Permit => &plugins.permit,
        Point::PreBind => &plugins.pre_bind,
        Point::Bind => &plugins.bind,
        Point::PostBind => &plugins.post_bind,
    }
}

/// The plugins of `multiPoint`: the defaults without those disabled, those named again in their place, and the rest after them.
fn merge(custom: &Names) -> Vec<PluginName> {
    let disabled = |name: &str| custom.disabled.iter().any(|d| d.name == name || d.name == "*");
    let defaults = DEFAULT.iter().filter(|(name, _)| !disabled(name)).map(|(name, weight)| {
        let again = custom.enabled.iter().find(|e| e.name == *name).cloned();
        again.unwrap_or_else(|| PluginName { name: (*name).to_owned(), weight: *weight })
    });
    let mut merged: Vec<PluginName> = defaults.collect();
    for extra in &custom.enabled {
        if !merged.iter().any(|known| known.name == extra.name) {
            merged.push(extra.clone());
        }
    }
    merged
}

fn point_name(point: Point) -> &'static str {
    match point {
        Point::PreEnqueue => "preEnqueue",
        Point::QueueSort => "queueSort",
        Point::PreFilter => "preFilter",
        Point::Filter => "filter",
        Point::PostFilter => "postFilter",
        Point::PreScore => "preScore",
        Point::Score => "score",
        Point::Reserve => "reserve",
        Point::Permit => "permit",
        Point::PreBind => "preBind",
        Point::Bind => "bind",
        Point::PostBind => "postBind",
    }
}

/// What runs at a point: first those of `multiPoint` that the point names again, then the others of `multiPoint`, then what only
/// the point names.
fn expand(point: Point, multi: &[PluginName], named: &Names) -> Result<Vec<(PluginId, i64)>, Error> {
    let mut specific: Vec<(PluginId, i64)> = Vec::new();
    for plugin in &named.enabled {
        if is_left_out(&plugin.name) {
            continue;
        }
        let id = by_name(&plugin.name)
            .filter(|id| ALL[*id].points().contains(&point))
            .ok_or_else(|| Error::NoSuchPlugin { point: point_name(point), plugin: plugin.name.clone() })?;
        if specific.iter().any(|(known, _)| *known == id) {
            return Err(Error::Twice { point: point_name(point), plugin: plugin.name.clone() });
        }
        specific.push((id, weight(plugin.weight)));
    }
    let mut by_multi: Vec<(PluginId, i64)> = Vec::new();
    for plugin in multi {
        if is_left_out(&plugin.name) {
            continue;
        }
        let Some(id) = by_name(&plugin.name).filter(|id| !ALL[*id].points().is_empty()) else {
            return Err(Error::NoSuchPlugin { point: "multiPoint", plugin: plugin.name.clone() });
        };
        let disabled = named.disabled.iter().any(|d| d.name == "*" || d.name == plugin.name);
        if !disabled && ALL[id].points().contains(&point) {
            by_multi.push((id, weight(plugin.weight)));
        }
    }
    let (again, only): (Vec<_>, Vec<_>) = specific.into_iter().partition(|(id, _)| by_multi.iter().any(|(multi, _)| multi == id));
    let rest: Vec<_> = by_multi.into_iter().filter(|(id, _)| !again.iter().any(|(known, _)| known == id)).collect();
    Ok(again.into_iter().chain(rest).chain(only).collect())
}

/// Whether upstream has the plugin and this scheduler has not.
fn is_left_out(name: &str) -> bool {
    let left_out = UNSUPPORTED.contains(&name);
    if left_out {
        tracing::warn!(plugin = name, "the plugin is not supported and is left out");
    }
    left_out
}

fn weight(weight: Option<i32>) -> i64 {
    weight.filter(|w| *w != 0).unwrap_or(1).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profile(value: Value) -> Profile {
        Profile::new(&serde_json::from_value(value).unwrap()).unwrap()
    }

    fn names_of(ids: impl IntoIterator<Item = PluginId>) -> Vec<&'static str> {
        ids.into_iter().map(|id| ALL[id].name()).collect()
    }

    #[test]
    fn the_defaults_are_those_of_upstream() {
        let standard = Profile::standard();
        assert_eq!(
            names_of(standard.filter.clone()),
            [
                "NodeName",
                "NodeUnschedulable",
                "TaintToleration",
                "NodeAffinity",
                "NodePorts",
                "NodeResourcesFit",
                "VolumeRestrictions",
                "NodeVolumeLimits",
                "VolumeBinding",
                "VolumeZone",
                "PodTopologySpread",
                "InterPodAffinity",
                "DynamicResources",
                "NodeDeclaredFeatures"
            ]
        );
        let scores: Vec<(&str, i64)> = standard.score.iter().map(|(id, weight)| (ALL[*id].name(), *weight)).collect();
        assert_eq!(
            scores,
            [
                ("TaintToleration", 3),
                ("NodeAffinity", 2),
                ("NodeResourcesFit", 1),
                ("VolumeBinding", 1),
                ("PodTopologySpread", 2),
                ("InterPodAffinity", 2),
                ("DynamicResources", 2),
                ("NodeResourcesBalancedAllocation", 1),
                ("ImageLocality", 1)
            ]
        );
        assert_eq!(names_of(standard.pre_enqueue), ["SchedulingGates", "DynamicResources", "DefaultPreemption"]);
        assert_eq!(names_of(standard.post_filter), ["DynamicResources", "DefaultPreemption"]);
    }

    #[test]
    fn a_point_can_leave_plugins_out_and_put_others_first() {
        let plugins = json!({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 7}]},
            "filter": {"enabled": [{"name": "NodePorts"}], "disabled": [{"name": "VolumeZone"}]},
            "multiPoint": {"disabled": [{"name": "InterPodAffinity"}]}});
        let got = profile(json!({"schedulerName": "a", "plugins": plugins}));
        assert_eq!(got.score, [(by_name("NodeResourcesFit").unwrap(), 7)]);
        let filters = names_of(got.filter);
        assert_eq!(filters[0], "NodePorts");
        assert!(!filters.contains(&"VolumeZone") && !filters.contains(&"InterPodAffinity"));
    }

    #[test]
    fn a_profile_without_binder_or_with_unknown_plugins_is_refused() {
        for (plugins, expected) in [
            (json!({"bind": {"disabled": [{"name": "*"}]}}), "at least one bind plugin"),
            (json!({"score": {"enabled": [{"name": "Nope"}]}}), "does not exist"),
            (json!({"queueSort": {"disabled": [{"name": "*"}]}}), "one queue sort plugin"),
        ] {
            let value = json!({"schedulerName": "a", "plugins": plugins});
            let error = Profile::new(&serde_json::from_value(value).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
